import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.objectives.cross_entropy import CHUNK_POSITIONS, _pick_chunk, cross_entropy, reference_cross_entropy
from jaxllm.parallel.collectives import find_collectives
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, use_layout

B, T, D, V = 3, 12, 8, 50


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    return (
        jax.random.normal(keys[0], (B, T, D)),
        jax.random.normal(keys[1], (V, D)),
        jax.random.randint(keys[2], (B, T), 0, V),
        (jax.random.uniform(keys[3], (B, T)) > 0.3).astype(jnp.float32) * 1.5,
    )


def with_gradients(function, arrays, **settings):
    x, head, targets, weights = arrays

    def scaled(x, head):
        loss, sums = function(x, head, targets, weights, **settings)
        return 3 * loss, sums

    return jax.jit(jax.value_and_grad(scaled, argnums=(0, 1), has_aux=True))(x, head)


HEADS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 2.0},
    "all": {"bias_V": jnp.sin(jnp.arange(float(V))), "scale": 1.7, "softcap": 3.0},
}


@pytest.mark.parametrize(("chunk", "z_loss"), [(0, 0.0), (1, 0.01), (4, 0.0), (12, 0.01)])
def test_equals_its_slow_twin(arrays, chunk, z_loss):
    fast = with_gradients(cross_entropy, arrays, chunk=chunk, z_loss=z_loss)
    slow = with_gradients(reference_cross_entropy, arrays, z_loss=z_loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), fast, slow)


@pytest.mark.parametrize("head", HEADS)
def test_heads_equal_the_slow_twin(arrays, head):
    settings = {"bias_V": None, **HEADS[head]}

    def with_bias(function, **more):
        bias = settings["bias_V"]
        others = {name: value for name, value in settings.items() if name != "bias_V"}

        def loss(x, head, bias):
            return function(x, head, *arrays[2:], bias_V=bias, z_loss=0.01, **others, **more)[0] / 2

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays[:2], bias)

    fast, slow = with_bias(cross_entropy, chunk=3), with_bias(reference_cross_entropy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), fast, slow)
    assert len(jax.tree.leaves(fast)) == (4 if "bias_V" in HEADS[head] else 3)


def test_bfloat16_activations(arrays):
    low = (arrays[0].astype(jnp.bfloat16), *arrays[1:])
    (fast, _), (grad_x, grad_head) = with_gradients(cross_entropy, low)
    (slow, _), (slow_x, slow_head) = with_gradients(reference_cross_entropy, low)
    assert grad_x.dtype == jnp.bfloat16 and grad_head.dtype == jnp.float32
    np.testing.assert_allclose(fast, slow, rtol=1e-2)
    np.testing.assert_allclose(grad_head, slow_head, rtol=0.1, atol=0.1)


def test_gradient_against_finite_differences(arrays):
    x, head, targets, weights = arrays
    jax.test_util.check_grads(
        lambda x, head: cross_entropy(x, head, targets, weights, z_loss=0.01)[0],
        (x, head),
        order=1,
        modes=["rev"],
        rtol=0.02,
    )


def test_a_uniform_model_pays_log_v():
    x, head = jnp.zeros((B, T, D)), jnp.ones((V, D))
    loss, _ = cross_entropy(x, head, jnp.zeros((B, T), jnp.int32), jnp.ones((B, T)))
    assert float(loss) / (B * T) == pytest.approx(np.log(V), rel=1e-6)


def test_logits_of_the_whole_batch_never_exist(arrays):
    x, head, targets, weights = arrays
    loss = jax.value_and_grad(lambda x, head: cross_entropy(x, head, targets, weights)[0], argnums=(0, 1))
    shapes = set(all_shapes(jax.make_jaxpr(loss)(x, head).jaxpr))
    assert not {(B, T, V), (B * T, V)} & shapes
    twin = jax.make_jaxpr(lambda x, head: reference_cross_entropy(x, head, targets, weights)[0])(x, head)
    assert (B, T, V) in set(all_shapes(twin.jaxpr)), "the search finds them where they are"


def all_shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(inner, "eqns"):
                    yield from all_shapes(inner)
                elif hasattr(inner, "jaxpr"):
                    yield from all_shapes(inner.jaxpr)


def test_a_chunk_that_does_not_divide_is_refused(arrays):
    with pytest.raises(ValueError, match="chunk 5 must divide the sequence length 12"):
        cross_entropy(*arrays, chunk=5)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(2, 300_000))
def test_the_chunk_divides_the_length_and_is_as_long_as_the_budget_allows(batch, length, vocab):
    chunk = _pick_chunk(batch, length, vocab)
    assert length % chunk == 0 and (chunk < length or length == 1)
    budget = max(CHUNK_POSITIONS, 2**22 // vocab)
    assert batch * chunk <= budget or chunk == 1
    longer = [c for c in range(chunk + 1, length // 2 + 1) if length % c == 0]
    assert all(batch * c > budget for c in longer)


# A weight's reduction over the batch, were it in the loop over chunks, would travel four times here.
@pytest.mark.parametrize("mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)], ids=["data", "all three"])
def test_a_sharded_batch_gives_the_same_and_reduces_the_heads_gradient_once(mesh):
    layout = Layout(make_mesh(mesh))
    x, head = jax.random.normal(jax.random.key(0), (8, 12, 16)), jax.random.normal(jax.random.key(1), (48, 16))
    targets = jax.random.randint(jax.random.key(2), (8, 12), 0, 48)
    weights = jax.random.uniform(jax.random.key(3), (8, 12))
    arrays = (x, head, targets, weights)

    bias = jnp.sin(jnp.arange(48.0))

    def loss(x, head, bias):
        with use_layout(layout):
            return cross_entropy(x, head, targets, weights, bias_V=bias, softcap=5.0, z_loss=0.01, chunk=3)

    shardings = (layout.sharding("batch", None, None), layout.sharding("vocab", "embed"), layout.sharding("vocab"))
    differentiate = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    compiled = jax.jit(differentiate, in_shardings=shardings).lower(x, head, bias).compile()
    expected = jax.value_and_grad(
        lambda x, h, b: reference_cross_entropy(x, h, *arrays[2:], bias_V=b, softcap=5.0, z_loss=0.01), (0, 1, 2), True
    )
    placed = jax.device_put((x, head, bias), shardings)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, compiled(*placed), expected(x, head, bias))

    found = find_collectives(compiled.as_text())
    over_batch = [c for c in found if set(c.over(layout.mesh)) & {"data", "fsdp"}]
    assert over_batch and all(c.depth == 0 for c in over_batch)
    # In the loop the vocabulary's shards agree on the softmax and add up the gradient of x, where there are any.
    assert all(c.over(layout.mesh) == ("tensor",) for c in found if c.depth)
