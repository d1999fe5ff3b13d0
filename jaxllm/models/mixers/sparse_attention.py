"""Native sparse attention: each query sees compressed blocks, a few selected blocks, and a window (Yuan et al. 2025).

The three branches have keys and values of their own. The compressed branch sees blocks of `compress_block` tokens, one
every `compress_stride`, without rotary positions (the compressor knows places within a block). Its softmax, summed over
the heads of a group, scores the blocks of `select_block` tokens, of which the group reads the best in full; choosing is
not differentiable, so only the compressed branch's own output trains the scores. A sigmoid gate weighs each branch of
each head. Queries are worked on in chunks, so memory grows with T and not with its square.

Shape letters: B batch, T query time, S key time, D model width, H query heads, G key/value heads, R query heads per
group, K head width, N compressed blocks, J blocks to select from, W window, C queries of a chunk, M hidden width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import ModelConfig, SparseAttentionConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.block_compression import Compressor, block_starts, compress, compressor_spec
from jaxllm.models.mixers.kv_cache import write
from jaxllm.models.mixers.rope import rope_angles, rotate
from jaxllm.models.mixers.sparse_branches import Sources, mix
from jaxllm.parallel.sharding import constrain

BRANCHES = ("compressed", "selected", "window")


@struct.dataclass
class KeysAndValues:
    """Of one branch: its projections [D, G, K], or what they give [B, S, G, K]."""

    key: jax.Array
    value: jax.Array


@struct.dataclass
class SparseAttention:
    query: jax.Array  # [D, H, K]
    compressed: KeysAndValues  # [D, G, K] each
    selected: KeysAndValues
    window: KeysAndValues
    gate: jax.Array  # [D, H, 3], in the order of BRANCHES
    gate_bias: jax.Array  # [H, 3]
    out: jax.Array  # [H, K, D]
    key_compressor: Compressor | None
    value_compressor: Compressor | None


@struct.dataclass
class SparseCache:
    """Of the selected branch all positions; of the compressed one its finished blocks, and the tokens that unfinished
    ones will need; of the window its newest positions. Tokens are in order, the newest last."""

    selected: KeysAndValues  # [B, S, G, K]
    compressed: KeysAndValues  # [B, N, G, K]
    unfinished: KeysAndValues  # [B, compress_block - 1, G, K]
    window: KeysAndValues  # [B, window - 1, G, K]


def sparse_attention_spec(model: ModelConfig, config: SparseAttentionConfig) -> SparseAttention:
    """The declarations of one layer."""
    D, K, H, G = model.d_model, model.head_width(config), config.num_heads, config.kv_heads
    inward = out_of_stream(model, fan_in=D)
    projection = Param((D, G, K), ("embed", "kv_heads", "head_dim"), inward)
    branch = KeysAndValues(projection, projection)
    compressor = compressor_spec(config.compress_block, K) if config.compressor == "mlp" else None
    return SparseAttention(
        query=Param((D, H, K), ("embed", "heads", "head_dim"), inward),
        compressed=branch,
        selected=branch,
        window=branch,
        gate=Param((D, H, 3), ("embed", "heads", "head_dim"), inward),
        gate_bias=Param((H, 3), ("heads", "head_dim"), zeros),
        out=Param((H, K, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * K)),
        key_compressor=compressor,
        value_compressor=compressor,
    )


def sparse_attention_cache(model: ModelConfig, config: SparseAttentionConfig, batch: int, length: int) -> SparseCache:
    """Room for `length` positions of one layer, in the compute type."""

    def empty(positions: int) -> KeysAndValues:
        none = jnp.zeros((batch, positions, config.kv_heads, model.head_width(config)), model.compute_dtype)
        return KeysAndValues(none, none)

    return SparseCache(
        selected=empty(length),
        compressed=empty(max(1, (length - config.compress_block) // config.compress_stride + 1)),
        unfinished=empty(config.compress_block - 1),
        window=empty(config.window - 1),
    )


def sparse_attention(
    p: SparseAttention,
    model: ModelConfig,
    config: SparseAttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: SparseCache | None,
) -> tuple[jax.Array, SparseCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D], the cache with these tokens in it, and the mean of each gate."""
    q_BTHK = einsum("BTD,DHK->BTHK", x_BTD, p.query)
    new = {name: _project(getattr(p, name), x_BTD) for name in BRANCHES}
    rotated_BTHK = q_BTHK
    if model.positions == "rope":
        angles = rope_angles(context.positions_BT, model.head_width(config), config.rope, model.context_length)
        rotated_BTHK = rotate(q_BTHK, *angles)
        for name in ("selected", "window"):
            new[name] = new[name].replace(key=rotate(new[name].key, *angles))
    gates_BTHE = jax.nn.sigmoid(einsum("BTD,DHE->BTHE", x_BTD, p.gate).astype(jnp.float32) + p.gate_bias)
    if cache is None:
        sources = _within_row(p, config, new, context)
    else:
        sources, cache = _with_cache(p, config, new, context, cache)
    q_BTHK, rotated_BTHK = (constrain(q, "batch", "length", "act_heads", None) for q in (q_BTHK, rotated_BTHK))
    mixed_BTHK = mix(config, q_BTHK, rotated_BTHK, gates_BTHE, sources)
    statistics = {f"gate_{name}": gates_BTHE[..., e].mean() for e, name in enumerate(BRANCHES)}
    return einsum("BTHK,HKD->BTD", mixed_BTHK, p.out), cache, statistics


def _project(p: KeysAndValues, x_BTD: jax.Array) -> KeysAndValues:
    return KeysAndValues(einsum("BTD,DGK->BTGK", x_BTD, p.key), einsum("BTD,DGK->BTGK", x_BTD, p.value))


def _compress(p: SparseAttention, tokens: KeysAndValues, slots_BNP: jax.Array) -> KeysAndValues:
    rows = jnp.arange(slots_BNP.shape[0])[:, None, None]
    return KeysAndValues(
        compress(p.key_compressor, tokens.key[rows, slots_BNP]),
        compress(p.value_compressor, tokens.value[rows, slots_BNP]),
    )


def _within_row(p: SparseAttention, config: SparseAttentionConfig, new, context: Context) -> Sources:
    """What the queries of whole rows may see: each its own document."""
    B, T, _, _ = new["selected"].key.shape
    positions_BT = jnp.broadcast_to(context.positions_BT, (B, T))
    segments_BT = jnp.ones((B, T), jnp.int32) if context.segment_ids_BT is None else context.segment_ids_BT
    starts_BN = block_starts(positions_BT, segments_BT, config.compress_block, config.compress_stride)
    slots_BNP = jnp.minimum(starts_BN[..., None] + jnp.arange(config.compress_block), T - 1)
    blocks = _compress(p, new["compressed"], slots_BNP)
    at_start = lambda values: jnp.take_along_axis(values, slots_BNP[..., 0], axis=1)  # noqa: E731
    before = [(0, 0), (config.window - 1, 0)]
    window = jax.tree.map(lambda x: jnp.pad(x, [*before, (0, 0), (0, 0)]), new["window"])
    return Sources(
        positions_BT=positions_BT,
        segments_BT=segments_BT,
        first_slot_BT=jnp.arange(T) - positions_BT,
        block_key_BNGK=blocks.key,
        block_value_BNGK=blocks.value,
        block_start_BN=at_start(positions_BT),
        block_segment_BN=jnp.where(starts_BN < T, at_start(segments_BT), -1),
        key_BSGK=new["selected"].key,
        value_BSGK=new["selected"].value,
        window_key_BUGK=window.key,
        window_value_BUGK=window.value,
        window_position_BU=jnp.pad(positions_BT, before),
        window_segment_BU=jnp.pad(segments_BT, before, constant_values=-1),
    )


def _with_cache(p: SparseAttention, config: SparseAttentionConfig, new, context: Context, cache: SparseCache):
    """What queries may see of the tokens before and of each other, and the cache with the new tokens."""
    B, T, _, _ = new["selected"].key.shape
    positions_BT = context.positions_BT
    count_B = jnp.full((B,), T) if context.valid_BT is None else context.valid_BT.sum(1)
    selected = jax.tree.map(lambda old, x: write(old, x, positions_BT[:, 0]), cache.selected, new["selected"])
    raw, unfinished = _append(cache.unfinished, new["compressed"], count_B)
    compressed = _finish_blocks(p, config, cache.compressed, raw, positions_BT[:, 0], T)
    window, newest = _append(cache.window, new["window"], count_B)
    ones_BT, N = jnp.ones((B, T), jnp.int32), compressed.key.shape[1]
    window_position_BU = positions_BT[:, :1] + jnp.arange(1 - config.window, T)
    sources = Sources(
        positions_BT=positions_BT,
        segments_BT=ones_BT,
        first_slot_BT=0 * ones_BT,
        block_key_BNGK=compressed.key,
        block_value_BNGK=compressed.value,
        block_start_BN=jnp.broadcast_to(jnp.arange(N) * config.compress_stride, (B, N)),
        block_segment_BN=jnp.ones((B, N), jnp.int32),
        key_BSGK=selected.key,
        value_BSGK=selected.value,
        window_key_BUGK=window.key,
        window_value_BUGK=window.value,
        window_position_BU=window_position_BU,
        window_segment_BU=jnp.where(window_position_BU < 0, -1, 1),
    )
    return sources, SparseCache(selected, compressed, unfinished, newest)


def _append(tail: KeysAndValues, new: KeysAndValues, count_B: jax.Array) -> tuple[KeysAndValues, KeysAndValues]:
    """The tail with the new tokens behind it, and the tail that is left after the first `count_B` of them."""
    whole = jax.tree.map(lambda old, x: jnp.concatenate([old, x.astype(old.dtype)], axis=1), tail, new)
    length = tail.key.shape[1]
    cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, length))
    return whole, jax.tree.map(lambda x: cut(x, count_B), whole)


def _finish_blocks(p, config: SparseAttentionConfig, blocks: KeysAndValues, raw: KeysAndValues, start_B, T: int):
    """Compress the blocks that end among the T new tokens, the first of them at position `start_B`."""
    block, stride = config.compress_block, config.compress_stride
    oldest_B = start_B - (block - 1)  # position of the first raw token
    first_B = jnp.maximum(0, -(-oldest_B // stride))
    index_BN = first_B[:, None] + jnp.arange((T - 1) // stride + 1)
    offset_BN = index_BN * stride - oldest_B[:, None]
    ends_here = offset_BN + block <= block - 1 + T
    slots_BNP = jnp.where(ends_here, offset_BN, 0)[..., None] + jnp.arange(block)
    finished = _compress(p, raw, slots_BNP)
    rows = jnp.arange(index_BN.shape[0])[:, None]
    target_BN = jnp.where(ends_here, index_BN, blocks.key.shape[1])  # beyond the end: dropped
    return jax.tree.map(lambda old, x: old.at[rows, target_BN].set(x.astype(old.dtype), mode="drop"), blocks, finished)
