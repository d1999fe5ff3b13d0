"""The three branches of native sparse attention, a chunk of queries at a time.

Shape letters as in sparse_attention.py; U positions of the window's keys (the W - 1 before the first query, then the
queries' own), X positions that a query selects.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import SparseAttentionConfig
from jaxllm.models.einsum import product

CHUNK = 64  # queries at a time; each holds num_selected * select_block keys of its own


@struct.dataclass
class Sources:
    """Where the queries stand and what they may look at. Segment -1 is never seen."""

    positions_BT: jax.Array
    segments_BT: jax.Array
    first_slot_BT: jax.Array  # where position 0 of the query's document lies in key_BSGK
    block_key_BNGK: jax.Array
    block_value_BNGK: jax.Array
    block_start_BN: jax.Array  # position of a block's first token
    block_segment_BN: jax.Array
    key_BSGK: jax.Array
    value_BSGK: jax.Array
    window_key_BUGK: jax.Array
    window_value_BUGK: jax.Array
    window_position_BU: jax.Array
    window_segment_BU: jax.Array


def mix(config: SparseAttentionConfig, q_BTHK, rotated_BTHK, gates_BTHE, sources: Sources) -> jax.Array:
    """The gated sum of the branches, [B, T, H, K] in the type of the values."""
    B, T, H, K = q_BTHK.shape
    size = min(CHUNK, T)
    count = -(-T // size)
    per_query = (q_BTHK, rotated_BTHK, gates_BTHE, sources.positions_BT, sources.segments_BT, sources.first_slot_BT)
    per_query = jax.tree.map(lambda x: _pad(x, count * size), per_query)
    chunks = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(B, count, size, *x.shape[2:]), 1, 0), per_query)
    U = count * size + config.window - 1
    sources = sources.replace(
        window_key_BUGK=_pad(sources.window_key_BUGK, U),
        window_value_BUGK=_pad(sources.window_value_BUGK, U),
        window_position_BU=_pad(sources.window_position_BU, U),
        window_segment_BU=_pad(sources.window_segment_BU, U, -1),
    )

    @jax.checkpoint  # the scores and the selected keys of one chunk are all that lives
    def one(start, chunk):
        q_BCHK, rotated_BCHK, gates_BCHE, positions_BC, segments_BC, first_slot_BC = chunk
        grouped = (B, size, config.kv_heads, H // config.kv_heads, K)
        q, rotated = (x.reshape(grouped) / math.sqrt(K) for x in (q_BCHK, rotated_BCHK))
        compressed, weights_BGCN = _compressed(config, q, positions_BC, segments_BC, sources)
        chosen_BGCn, exists = select_blocks(config, weights_BGCN, positions_BC, sources)
        selected = _selected(config, rotated, chosen_BGCn, exists, positions_BC, first_slot_BC, sources)
        window = _windowed(config, rotated, start, positions_BC, segments_BC, sources)
        branches = jnp.stack([compressed, selected, window], -1).reshape(B, size, H, K, 3)
        mixed = (branches.astype(jnp.float32) * gates_BCHE[:, :, :, None]).sum(-1)
        return start + size, mixed.astype(sources.value_BSGK.dtype)

    _, mixed = jax.lax.scan(one, jnp.int32(0), chunks)
    return jnp.moveaxis(mixed, 0, 1).reshape(B, count * size, H, K)[:, :T]


def _compressed(config, q_BCGRK, positions_BC, segments_BC, s: Sources):
    """Attention to the finished blocks, and its weights summed over the heads of a group."""
    ended = s.block_start_BN[:, None] + config.compress_block - 1 <= positions_BC[:, :, None]
    mask_BCN = ended & (s.block_segment_BN[:, None] == segments_BC[:, :, None])
    scores = product("BCGRK,BNGK->BGRCN", q_BCGRK, s.block_key_BNGK)
    weights = _softmax(scores, mask_BCN[:, None, None])
    mixed = product("BGRCN,BNGK->BCGRK", weights.astype(s.block_value_BNGK.dtype), s.block_value_BNGK)
    return mixed, weights.sum(2)


def select_blocks(config: SparseAttentionConfig, weights_BGCN, positions_BC, s: Sources):
    """The blocks that each group of each query reads, [B, G, C, n], and which of these exist.

    A block scores the weights of the compressed blocks that overlap it, times how many strides they share (equation 9,
    with the sign that makes them overlap). The first, and the newest ones, are always taken.
    """
    strides, width = config.compress_block // config.compress_stride, config.select_block // config.compress_stride
    J = -(-s.key_BSGK.shape[1] // config.select_block)
    first_BN1, block_J = (s.block_start_BN // config.compress_stride)[..., None], jnp.arange(J)
    shared = jnp.minimum(first_BN1 + strides, (block_J + 1) * width) - jnp.maximum(first_BN1, block_J * width)
    overlap_BNJ = jnp.maximum(shared, 0).astype(jnp.float32)
    scores_BGCJ = jnp.einsum("BGCN,BNJ->BGCJ", weights_BGCN, overlap_BNJ)
    own_BC1 = (positions_BC // config.select_block)[..., None]
    forced_BCJ = (block_J < config.num_initial) | (block_J > own_BC1 - config.num_local)
    scores_BGCJ = jnp.where(forced_BCJ[:, None], jnp.inf, jax.lax.stop_gradient(scores_BGCJ))
    scores_BGCJ = jnp.where((block_J <= own_BC1)[:, None], scores_BGCJ, -jnp.inf)
    best, chosen = jax.lax.top_k(scores_BGCJ, min(config.num_selected, J))
    return chosen, best > -jnp.inf


def _selected(config, q_BCGRK, chosen_BGCn, exists_BGCn, positions_BC, first_slot_BC, s: Sources):
    """Attention to every token, not later than the query, of the chosen blocks."""
    B, G, C, n = chosen_BGCn.shape
    inside = jnp.arange(config.select_block)
    positions_BGCX = (chosen_BGCn[..., None] * config.select_block + inside).reshape(B, G, C, -1)
    mask = (positions_BGCX <= positions_BC[:, None, :, None]) & jnp.repeat(exists_BGCn, config.select_block, axis=-1)
    slots_BGCX = jnp.where(mask, first_slot_BC[:, None, :, None] + positions_BGCX, 0)
    row, group = jnp.arange(B)[:, None, None, None], jnp.arange(G)[:, None, None]
    keys, values = s.key_BSGK[row, slots_BGCX, group], s.value_BSGK[row, slots_BGCX, group]
    scores = product("BCGRK,BGCXK->BGRCX", q_BCGRK, keys)
    weights = _softmax(scores, mask[:, :, None])
    return product("BGRCX,BGCXK->BCGRK", weights.astype(values.dtype), values)


def _windowed(config, q_BCGRK, start, positions_BC, segments_BC, s: Sources):
    """Attention to the newest `window` positions of the query's document."""
    length = q_BCGRK.shape[1] + config.window - 1
    near = lambda x: jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)  # noqa: E731
    distance = positions_BC[:, :, None] - near(s.window_position_BU)[:, None]
    mask_BCU = (distance >= 0) & (distance < config.window)
    mask_BCU &= near(s.window_segment_BU)[:, None] == segments_BC[:, :, None]
    scores = product("BCGRK,BUGK->BGRCU", q_BCGRK, near(s.window_key_BUGK))
    values = near(s.window_value_BUGK)
    weights = _softmax(scores, mask_BCU[:, None, None])
    return product("BGRCU,BUGK->BCGRK", weights.astype(values.dtype), values)


def _softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Over the last axis; zeros where nothing is to be seen."""
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
    return jnp.where(mask, weights, 0)


def _pad(x: jax.Array, length: int, value: int = 0) -> jax.Array:
    return jnp.pad(x, [(0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)], constant_values=value)
