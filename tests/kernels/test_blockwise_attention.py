"""Attention in blocks against its slow twin, results and gradients; and that its memory is linear in the length."""

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

B, T, H, K = 2, 11, 4, 8
PACKED = Places(
    jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]]),
    jnp.array([[1, 1, 1, 1, 1, 2, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]]),
)
WHOLE = Places(jnp.arange(T)[None], None)


def arrays(groups, width=K, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(B, T, H, K), (B, T, groups, K), (B, T, groups, width), (B, T, H, width)]
    q, k, v, cotangent = (jax.random.normal(key, s, dtype) for key, s in zip(keys, shapes, strict=False))
    return 3 * q, k, v, cotangent, jax.random.normal(keys[4], (H,))


@pytest.mark.parametrize(
    ("groups", "places", "reach", "options"),
    [
        (4, WHOLE, Reach(), {}),
        (2, PACKED, Reach(), {}),
        (1, PACKED, Reach(window=3), {"softcap": 2.0, "sinks": True}),
        (2, PACKED, Reach(chunk=4), {"sinks": True, "scale": 0.5}),
        (2, PACKED, Reach(causal=False, window=4), {"softcap": 5.0}),
        (4, WHOLE, Reach(causal=False), {}),
    ],
    ids=["plain", "packed", "window_cap_sinks_one_group", "chunk_sinks_scale", "both_sides", "all"],
)
def test_it_equals_the_slow_twin(groups, places, reach, options):
    q, k, v, cotangent, sinks = arrays(groups, width=6)
    options = {**options, "sinks": sinks if options.get("sinks") else None}

    def both(q, k, v, sinks):
        given = {**options, "sinks": sinks}
        fast, pull = jax.vjp(
            lambda q, k, v, s: blockwise_attention(q, k, v, places, places, reach, **{**given, "sinks": s}, block=4),
            q, k, v, sinks,
        )  # fmt: skip
        slow, pull_slow = jax.vjp(
            lambda q, k, v, s: reference_blockwise_attention(q, k, v, places, places, reach, **{**given, "sinks": s}),
            q, k, v, sinks,
        )  # fmt: skip
        return (fast, pull(cotangent)), (slow, pull_slow(cotangent))

    fast, slow = jax.jit(both)(q, k, v, options["sinks"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), fast, slow)


def test_parts_of_the_keys_merge_into_the_whole():
    q, k, v, _, _ = arrays(2)
    scores = Scores(Reach(), 0.0, 1.0, 4)
    part = (
        lambda a, b: forward_blocks(  # noqa: E731
            scores, q, k[:, a:b], v[:, a:b], PACKED, jax.tree.map(lambda x: x[:, a:b], PACKED)
        )
    )
    whole, merged = part(0, T), merge(part(0, 5), merge(part(8, T), part(5, 8)))
    np.testing.assert_allclose(merged.mean_BTHV, whole.mean_BTHV, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merged.log_weight_BTH, whole.log_weight_BTH, rtol=1e-5)


def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient():
    q, k, v, _, _ = arrays(2)
    later = Places(WHOLE.positions_BT + 5, None)
    run = lambda q: blockwise_attention(q, k, v, WHOLE, later, block=4)  # noqa: E731
    out, pull = jax.vjp(run, q)
    assert not np.asarray(out[:, :5]).any() and np.asarray(out[:, 5:]).all()
    (grad,) = pull(jnp.ones_like(out))
    assert np.isfinite(grad).all() and not np.asarray(grad[:, :5]).any()


@pytest.mark.parametrize("reach", [Reach(), Reach(window=3), Reach(chunk=4), Reach(causal=False, window=2)], ids=str)
def test_a_block_is_left_out_only_where_nobody_sees_anything(reach):
    """Against the mask, for all pairs of blocks of shuffled packed rows; and rows in order leave out all they can."""
    random = np.random.default_rng(0)
    exact = 0
    for order in (np.arange(T), random.permutation(T)):
        shuffled = jax.tree.map(lambda x, order=order: x[:, order], PACKED)
        for i in range(0, T, 3):
            for j in range(0, T, 3):
                query, key = (jax.tree.map(lambda x, s=s: x[:1, s : s + 3], shuffled) for s in (i, j))
                seen, met = bool(visible(query, key, reach).any()), bool(may_meet(query, key, reach))
                assert met or not seen
                exact += (order[0] == 0) and met == seen
    assert exact == 16


def test_memory_grows_with_the_length_and_not_with_its_square():
    def temporary(length):
        x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        places = Places(jnp.arange(length)[None], None)
        loss = lambda q, k, v: blockwise_attention(q, k, v, places, places, block=64).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(2048) < 2.2 * temporary(1024)


def test_bfloat16_stays_close_to_the_twin():
    q, k, v, _, _ = arrays(2, dtype=jnp.bfloat16)
    out = blockwise_attention(q, k, v, PACKED, PACKED, block=4)
    assert out.dtype == jnp.bfloat16
    slow = reference_blockwise_attention(q, k, v, PACKED, PACKED)
    np.testing.assert_allclose(out.astype(jnp.float32), slow, rtol=0.03, atol=0.03)
