"""Attention in blocks against its slow twin, results and gradients; and that its memory is linear in the length."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.blockwise_attention import (
    Scores,
    blockwise_attention,
    forward_blocks,
    merge,
    reference_blockwise_attention,
)
from jaxllm.kernels.visibility import Places, Reach, may_meet, visible

B, T, H, K, V = 2, 11, 4, 8, 6
QUICK = {"xla_backend_optimization_level": 0}  # machine code that runs once need not be good
PACKED = Places(
    jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]]),
    jnp.array([[1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]]),
)
WHOLE = Places(jnp.arange(T)[None], None)


def arrays(groups, dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = [(B, T, H, K), (B, T, groups, K), (B, T, groups, V), (B, T, H, V), (H,)]
    q, k, v, cotangent, sinks = (jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)
    return 3 * q, k, v, cotangent, sinks


@pytest.mark.parametrize(
    ("groups", "places", "reach", "options"),
    [
        (2, PACKED, Reach(), {}),
        (1, PACKED, Reach(window=3), {"softcap": 2.0, "sinks": True}),
        (4, PACKED, Reach(chunk=4), {"sinks": True, "scale": 0.5}),
        (2, WHOLE, Reach(causal=False, window=4), {"softcap": 5.0}),
    ],
    ids=["packed", "window_cap_sinks_one_group", "chunk_sinks_scale", "both_sides"],
)
def test_it_equals_the_slow_twin(groups, places, reach, options):
    q, k, v, cotangent, sinks = arrays(groups)
    sinks = sinks if options.get("sinks") else None

    def both(q, k, v, sinks):
        results = []
        for form in (partial(blockwise_attention, block=4), reference_blockwise_attention):
            run = lambda q, k, v, s, form=form: form(q, k, v, places, places, reach, **{**options, "sinks": s})  # noqa: E731
            out, pull = jax.vjp(run, q, k, v, sinks)
            results.append((out, pull(cotangent)))
        return results

    fast, slow = jax.jit(both, compiler_options=QUICK)(q, k, v, sinks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), fast, slow)


def test_parts_of_the_keys_merge_into_the_whole_and_what_sees_nothing_gets_zeros():
    q, k, v, cotangent, _ = arrays(2)

    @partial(jax.jit, compiler_options=QUICK)
    def run(q):
        scores = Scores(Reach(), 0.0, 1.0, 4)
        part = lambda s: forward_blocks(scores, q, k[:, s], v[:, s], PACKED, jax.tree.map(lambda x: x[:, s], PACKED))  # noqa: E731
        merged = merge(part(slice(0, 5)), merge(part(slice(8, T)), part(slice(5, 8))))
        later = Places(WHOLE.positions_BT + 5, None)
        out, pull = jax.vjp(lambda q: blockwise_attention(q, k, v, WHOLE, later, block=4), q)
        return part(slice(0, T)), merged, out, pull(cotangent)[0]

    whole, merged, out, grad = run(q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), merged, whole)
    assert not np.asarray(out[:, :5]).any() and np.asarray(out[:, 5:]).all()
    assert np.isfinite(grad).all() and not np.asarray(grad[:, :5]).any()


@pytest.mark.parametrize("reach", [Reach(), Reach(window=3), Reach(chunk=4), Reach(causal=False, window=2)], ids=str)
def test_a_block_is_left_out_only_where_nobody_sees_anything(reach):
    """All pairs of blocks of three tokens of a packed row; in order, all that can be are left out."""
    row = jax.tree.map(lambda x: np.asarray(x[0, :9]), PACKED)

    @partial(jax.jit, compiler_options=QUICK)
    @partial(jax.vmap, in_axes=(0, None))
    @partial(jax.vmap, in_axes=(None, 0))
    def pair(query, key):
        query, key = (jax.tree.map(lambda x: x[None], places) for places in (query, key))
        return visible(query, key, reach).any(), may_meet(query, key, reach)

    for order in (np.arange(9), np.random.default_rng(0).permutation(9)):
        blocks = jax.tree.map(lambda x, order=order: jnp.asarray(x[order].reshape(3, 3)), row)
        seen, met = map(np.asarray, pair(blocks, blocks))
        assert (met | ~seen).all()
        assert order[0] or (met == seen).all()


def test_memory_is_not_that_of_all_scores():
    length, heads = 2048, 2
    x = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
    places = Places(jnp.arange(length)[None], None)
    loss = lambda q, k, v: blockwise_attention(q, k, v, places, places, block=64).sum()  # noqa: E731
    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile(compiler_options=QUICK)
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * heads * length**2 / 10


def test_bfloat16_stays_close_to_the_twin():
    q, k, v, _, _ = arrays(2, jnp.bfloat16)
    fast, slow = jax.jit(
        lambda *qkv: [
            f(*qkv, PACKED, PACKED) for f in (partial(blockwise_attention, block=4), reference_blockwise_attention)
        ]
    )(q, k, v)
    assert fast.dtype == jnp.bfloat16
    np.testing.assert_allclose(fast.astype(jnp.float32), slow, rtol=0.03, atol=0.03)


def test_a_loop_over_layers_keeps_no_masks():
    """The places are the same in each layer, and of what is the same JAX makes all it can before the loop."""
    length, q = 256, jax.ShapeDtypeStruct((1, 256, 2, 4), np.float32)
    places = Places(jnp.arange(length)[None], None)

    def loss(q):
        layer = lambda x, _: (x + blockwise_attention(x, x, x, places, places, block=16), None)  # noqa: E731
        return jax.lax.scan(jax.checkpoint(layer), q, length=3)[0].sum()

    assert largest_array(jax.make_jaxpr(jax.grad(loss))(q).jaxpr) < length * length


def largest_array(jaxpr) -> int:
    """Elements, in it and all that it calls."""
    inside = [
        getattr(value, "jaxpr", value)
        for eqn in jaxpr.eqns
        for parameter in eqn.params.values()
        for value in (parameter if isinstance(parameter, tuple | list) else [parameter])
    ]
    here = [variable.aval.size for eqn in jaxpr.eqns for variable in eqn.outvars]
    return max([*here, *(largest_array(sub) for sub in inside if hasattr(sub, "eqns"))], default=0)
