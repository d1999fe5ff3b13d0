"""A backward pass in two parts equals the whole, and the weights' part multiplies nothing but weights' gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.parallel.pipeline.split_backward import split_backward

L, D, F, B = 3, 8, 16, 4


def backward(lasting, passing):
    """Gradients of a scan over gated layers, a mask among them; the mask follows from what lasts."""
    weights, mask_B = lasting
    x, y_bar = passing

    @jax.jit
    def layer(x, weights):
        up, gate, down, scale = weights
        normed = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale
        hidden = jnp.einsum("BD,DF->BF", normed, up) * jax.nn.silu(normed @ gate)
        return x + jnp.exp(-mask_B)[:, None] * (hidden @ down), None

    y, pull = jax.vjp(lambda weights, x: jax.lax.scan(layer, x, weights)[0], weights, x)
    weights_bar, x_bar = pull(y_bar)
    return (x_bar, y), weights_bar


def operands():
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    weights = draw(L, D, F), draw(L, D, F), draw(L, F, D), draw(L, D)
    return (weights, draw(B)), (draw(B, D), draw(B, D))


def products(function, *operands):
    """Matrix products of a program, those of loops as often as they run."""

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            inner = [p.jaxpr for p in eqn.params.values() if hasattr(p, "jaxpr")]
            total += (eqn.primitive.name == "dot_general") + times * sum(map(count, inner))
        return total

    return count(jax.make_jaxpr(function)(*operands).jaxpr)


def test_both_parts_are_the_whole():
    lasting, passing = operands()
    split = split_backward(backward, lasting, jax.eval_shape(lambda: passing))
    whole = jax.jit(backward)(lasting, passing)
    first, saved = jax.jit(split.early)(lasting, passing)
    parts = first, jax.jit(split.late)(lasting, saved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)
    assert [(s.shape, s.dtype) for s in split.saved] == [(s.shape, s.dtype) for s in saved]


def test_nothing_is_multiplied_twice():
    lasting, passing = operands()
    split = split_backward(backward, lasting, passing)
    _, saved = jax.eval_shape(split.early, lasting, passing)
    assert products(backward, lasting, passing) == 9 * L
    assert products(split.early, lasting, passing) == 6 * L, "three forward, three for the inputs"
    assert products(split.late, lasting, saved) == 3 * L, "three for the weights"
    # Neither the weights nor what follows from the mask is kept.
    assert not any(s.shape in ((L, D, F), (L, F, D), (B,), (B, 1)) for s in split.saved)


def test_a_carry_that_only_weights_want_comes_late():
    """The gradient of a weight that all layers share is summed in the loop's carry."""

    def shared(lasting, passing):
        def stage(weight, x):
            return jax.lax.scan(lambda x, _: (jnp.tanh(x @ weight), None), x, None, length=L)[0]

        _, pull = jax.vjp(stage, lasting, passing[0])
        weight_bar, x_bar = pull(passing[1])
        return x_bar, weight_bar

    weight, (x, y_bar) = operands()[0][0][3][0][None] * jnp.eye(D), operands()[1]
    split = split_backward(shared, weight, (x, y_bar))
    x_bar, saved = jax.jit(split.early)(weight, (x, y_bar))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.jit(shared)(weight, (x, y_bar)),
        (x_bar, jax.jit(split.late)(weight, saved)),
    )
    assert products(split.late, weight, saved) == L


def test_a_carry_that_feeds_only_what_comes_late_comes_late_too():
    def function(lasting, passing):
        add = lambda carry, x: ((carry[0] + x, 2 * carry[1] + carry[0], carry[2] + carry[1]), None)  # noqa: E731
        (first, _, later), _ = jax.lax.scan(add, (passing, lasting, passing), jnp.arange(4.0))
        return first, later

    split = split_backward(function, jnp.float32(3), jnp.float32(5))
    first, saved = split.early(jnp.float32(3), jnp.float32(5))
    assert (first, split.late(jnp.float32(3), saved)) == function(jnp.float32(3), jnp.float32(5))
    assert (4,) in [s.shape for s in split.saved], "the early carry, turn by turn"
