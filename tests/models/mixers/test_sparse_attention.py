"""Native sparse attention against one query at a time in NumPy, and against what it must agree with."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.config import ModelConfig, SparseAttentionConfig
from jaxllm.models.declare import initialize
from jaxllm.models.layer import Context
from jaxllm.models.mixers.rope import rope_angles, rotate
from jaxllm.models.mixers.sparse_attention import sparse_attention, sparse_attention_cache, sparse_attention_spec

MODEL = ModelConfig(vocab_size=8, d_model=24, num_layers=1, context_length=128, positions="rope", init_std=0.3)
SPARSE = SparseAttentionConfig(
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    compress_block=4,
    compress_stride=2,
    select_block=6,
    num_selected=3,
    num_initial=1,
    num_local=1,
    window=5,
)
T = 41


def parameters(config, seed=0):
    params = initialize(sparse_attention_spec(MODEL, config), jax.random.key(seed))
    noise = np.random.default_rng(seed).normal(size=params.gate_bias.shape)
    return params.replace(gate_bias=jnp.asarray(noise, jnp.float32))


def inputs(batch=2, length=T, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, length, MODEL.d_model)), jnp.float32)


def places(batch=2, length=T):
    return Context(jnp.broadcast_to(jnp.arange(length), (batch, length)), None, None)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(sparse_attention, static_argnums=(1, 2))


def by_hand(params, config, x):
    """One row: each query, head group and branch on its own."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x, K, G = np.asarray(x, np.float64), config.head_dim, config.kv_heads
    turn = lambda a: np.asarray(rotate(jnp.asarray(a[None], jnp.float32), *angles)[0], np.float64)  # noqa: E731
    angles = rope_angles(jnp.arange(len(x))[None], K, config.rope, 128)
    project = lambda w: np.einsum("TD,DHK->THK", x, w)  # noqa: E731
    q, plain = turn(project(p.query)), project(p.query)
    gates = 1 / (1 + np.exp(-(np.einsum("TD,DHE->THE", x, p.gate) + p.gate_bias)))
    raw_k, raw_v = project(p.compressed.key), project(p.compressed.value)
    keys = {"selected": turn(project(p.selected.key)), "window": turn(project(p.window.key))}
    values = {"selected": project(p.selected.value), "window": project(p.window.value)}

    def squeeze(compressor, tokens):
        if compressor is None:
            return tokens.mean(0)
        h = np.einsum("PGK,PKM->GM", tokens + compressor.place[:, None], compressor.up)
        return np.asarray(jax.nn.gelu(jnp.asarray(h)), np.float64) @ compressor.down

    def attend(query, k, v):
        w = np.exp(k @ query / np.sqrt(K))
        return (w / w.sum()) @ v if len(k) else np.zeros(K), w / w.sum() if len(k) else w

    out, chosen = np.zeros((len(x), config.num_heads, K)), {}
    for t in range(len(x)):
        starts = [s for s in range(0, len(x), config.compress_stride) if s + config.compress_block - 1 <= t]
        blocks_k = [squeeze(p.key_compressor, raw_k[s : s + config.compress_block]) for s in starts]
        blocks_v = [squeeze(p.value_compressor, raw_v[s : s + config.compress_block]) for s in starts]
        for g in range(G):
            heads = range(g * config.num_heads // G, (g + 1) * config.num_heads // G)
            k, v = np.array([b[g] for b in blocks_k]), np.array([b[g] for b in blocks_v])
            scores, compressed = np.zeros(t // config.select_block + 1), {}
            for h in heads:
                compressed[h], weights = attend(plain[t, h], k.reshape(-1, K), v.reshape(-1, K))
                for s, w in zip(starts, weights, strict=True):
                    for stride in range(s, s + config.compress_block, config.compress_stride):
                        scores[stride // config.select_block] += w if stride // config.select_block < len(scores) else 0
            scores[: config.num_initial], scores[-config.num_local :] = np.inf, np.inf
            best = sorted(np.argsort(-scores, kind="stable")[: config.num_selected])
            chosen[t, g] = best
            seen = [s for b in best for s in range(b * config.select_block, (b + 1) * config.select_block) if s <= t]
            near = list(range(max(0, t - config.window + 1), t + 1))
            for h in heads:
                selected, _ = attend(q[t, h], keys["selected"][seen, g], values["selected"][seen, g])
                window, _ = attend(q[t, h], keys["window"][near, g], values["window"][near, g])
                out[t, h] = gates[t, h] @ np.array([compressed[h], selected, window])
    return np.einsum("THK,HKD->TD", out, p.out), chosen


@pytest.mark.parametrize("compressor", ["mlp", "mean"])
def test_equals_one_query_at_a_time(apply, compressor):
    config = replace(SPARSE, compressor=compressor)
    params, x = parameters(config), inputs()
    mixed, cache, statistics = apply(params, MODEL, config, x, places(), None)
    assert cache is None
    for row in range(2):
        expected, chosen = by_hand(params, config, x[row])
        np.testing.assert_allclose(mixed[row], expected, rtol=1e-4, atol=1e-5)
    assert any(chosen[t, 0] != chosen[t, 1] for t in range(T)), "groups select differently"
    assert 0.1 < statistics["gate_window"] < 0.9


def test_all_blocks_selected_is_full_attention(apply):
    """With the gates open to the selected branch alone."""
    config = replace(SPARSE, num_selected=-(-T // SPARSE.select_block))
    params = parameters(config)
    params = params.replace(gate=0 * params.gate, gate_bias=jnp.full((4, 3), -1e9).at[:, 1].set(1e9))
    x = inputs()
    angles = rope_angles(jnp.arange(T)[None], config.head_dim, config.rope, 128)
    q = rotate(jnp.einsum("BTD,DHK->BTHK", x, params.query), *angles)
    k = rotate(jnp.einsum("BTD,DGK->BTGK", x, params.selected.key), *angles)
    v = jnp.einsum("BTD,DGK->BTGK", x, params.selected.value)
    full = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    expected = jnp.einsum("BTHK,HKD->BTD", full, params.out)
    np.testing.assert_allclose(apply(params, MODEL, config, x, places(), None)[0], expected, rtol=1e-4, atol=1e-5)


def test_no_token_sees_a_later_one(apply):
    params, x = parameters(SPARSE), inputs(batch=1)
    for t in (3, 17, 30):
        seen = jax.grad(lambda x, t=t: jnp.square(apply(params, MODEL, SPARSE, x, places(1), None)[0][0, t]).sum())(x)
        reached = np.abs(seen[0]).sum(-1)
        assert (reached[t + 1 :] == 0).all() and reached[t] > 0 and reached[0] > 0


def test_packed_documents_are_as_if_alone(apply):
    params, x = parameters(SPARSE), inputs(batch=1)
    lengths = (11, 3, 19)
    positions = np.concatenate([np.arange(n) for n in (*lengths, T - sum(lengths))])
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(T - sum(lengths), int)])
    packed, _, _ = apply(params, MODEL, SPARSE, x, Context(positions[None], segments[None], segments[None] > 0), None)
    start = 0
    for n in lengths:
        alone, _, _ = apply(params, MODEL, SPARSE, x[:, start : start + n], places(1, n), None)
        np.testing.assert_allclose(packed[:, start : start + n], alone, rtol=1e-4, atol=1e-5)
        start += n


def test_cached_in_pieces_equals_the_whole(apply):
    params, x = parameters(SPARSE), inputs()
    whole, _, _ = apply(params, MODEL, SPARSE, x, places(), None)
    cache, pieces = sparse_attention_cache(MODEL, SPARSE, 2, T), []
    for start, stop in ((0, 9), (9, 10), (10, 27), *((t, t + 1) for t in range(27, 34))):
        here = Context(jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start)), None, None)
        mixed, cache, _ = apply(params, MODEL, SPARSE, x[:, start:stop], here, cache)
        pieces.append(mixed)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole[:, :34], rtol=1e-4, atol=1e-5)


def test_padding_on_the_right_leaves_no_trace(apply):
    """Row 0 has 14 tokens, row 1 has 9 and padding; both go on from there."""
    params, x, lengths = parameters(SPARSE), inputs(), np.array([14, 9])
    here = Context(jnp.broadcast_to(jnp.arange(14), (2, 14)), None, jnp.arange(14)[None] < lengths[:, None])
    _, cache, _ = apply(params, MODEL, SPARSE, x[:, :14], here, sparse_attention_cache(MODEL, SPARSE, 2, T))
    for step in range(6):
        at = jnp.asarray(lengths + step)
        token = jnp.take_along_axis(x, at[:, None, None], axis=1)
        mixed, cache, _ = apply(params, MODEL, SPARSE, token, Context(at[:, None], None, None), cache)
        whole, _, _ = apply(params, MODEL, SPARSE, x, places(), None)
        np.testing.assert_allclose(mixed[:, 0], whole[jnp.arange(2), at], rtol=1e-4, atol=1e-5)


def test_selection_has_no_gradient_and_the_scores_are_trained_by_their_own_branch(apply):
    params, x = parameters(SPARSE), inputs()

    def loss(params):
        return jnp.square(apply(params, MODEL, SPARSE, x, places(), None)[0]).sum()

    grads = jax.grad(loss)(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
    closed = params.replace(gate=0 * params.gate, gate_bias=params.gate_bias.at[:, 0].set(-1e9))
    alone = jax.grad(loss)(closed)
    assert float(jnp.abs(alone.compressed.key).max()) == 0 == float(jnp.abs(alone.key_compressor.up).max())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compress_stride": 3}, "compress_stride=3 must divide"),
        ({"num_selected": 1, "num_initial": 1}, "num_selected=1 is fewer than the blocks that are always selected"),
        ({"num_kv_heads": 3}, "num_heads=4 must be a positive multiple of num_kv_heads=3"),
    ],
)
def test_impossible_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(SPARSE, **fields)
