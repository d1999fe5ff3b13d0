"""Attention to a memory: what an encoder made of the source (Vaswani et al. 2017, section 3.2.3).

Shape letters: B batch, T query time, S memory time, D model width, M memory width, H query heads, G key/value heads,
K head width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import CrossAttentionConfig, ModelConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import affine
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.dot_product import dot_product_attention
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class Memory:
    """What can be looked at: the output of an encoder."""

    x_BSM: jax.Array
    segment_ids_BS: jax.Array
    """Which document of its row a position belongs to, 0 for padding."""


@struct.dataclass
class CrossContext(Context):
    """A context that knows a memory. Segment n of the stream sees segment n of it; without segments, a row sees all of
    its memory but padding."""

    memory: Memory | None = None


@struct.dataclass
class CrossAttention:
    query: jax.Array
    key: jax.Array
    value: jax.Array
    out: jax.Array
    query_bias: jax.Array | None
    key_bias: jax.Array | None
    value_bias: jax.Array | None
    out_bias: jax.Array | None


@struct.dataclass
class CrossCache:
    """The memory's keys and values for one layer, computed once; decoding only reads them."""

    key_BSGK: jax.Array
    value_BSGK: jax.Array
    visible_BS: jax.Array


def cross_attention_spec(model: ModelConfig, config: CrossAttentionConfig) -> CrossAttention:
    """The declarations of one layer."""
    D, K, H, G = model.d_model, model.head_width(config), config.num_heads, config.kv_heads
    M = config.d_memory or D
    kv = Param((M, G, K), ("embed", "kv_heads", "head_dim"), out_of_stream(model, fan_in=M))
    kv_bias = Param((G, K), ("kv_heads", "head_dim"), zeros) if config.qkv_bias else None
    return CrossAttention(
        query=Param((D, H, K), ("embed", "heads", "head_dim"), out_of_stream(model, fan_in=D)),
        key=kv,
        value=kv,
        out=Param((H, K, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * K)),
        query_bias=Param((H, K), ("heads", "head_dim"), zeros) if config.qkv_bias else None,
        key_bias=kv_bias,
        value_bias=kv_bias,
        out_bias=Param((D,), ("residual",), zeros) if config.out_bias else None,
    )


def cross_attention_cache(model: ModelConfig, config: CrossAttentionConfig, batch: int, length: int) -> CrossCache:
    """The cache of an empty memory: it has no positions, however long the target may become."""
    empty = jnp.zeros((batch, 0, config.kv_heads, model.head_width(config)), jnp.dtype(model.compute_dtype))
    return CrossCache(empty, empty, jnp.zeros((batch, 0), bool))


def remember(p: CrossAttention, memory: Memory) -> CrossCache:
    """The cache of a memory. Its rows are one document each: whatever is not padding is seen."""
    key_BSGK, value_BSGK = _keys_and_values(p, memory.x_BSM)
    return CrossCache(key_BSGK, value_BSGK, memory.segment_ids_BS > 0)


def cross_attention(
    p: CrossAttention,
    model: ModelConfig,
    config: CrossAttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: CrossCache | None,
) -> tuple[jax.Array, CrossCache | None, Statistics]:
    """Mix the memory into the stream; returns the branch [B, T, D] and the cache as it was.

    The memory is the cache's, or without a cache that of a `CrossContext`. Raises ValueError when there is neither.
    """
    if cache is None:
        memory = getattr(context, "memory", None)
        if memory is None:
            raise ValueError("cross attention has nothing to look at: run it through an encoder-decoder")
        key_BSGK, value_BSGK = _keys_and_values(p, memory.x_BSM)
        mask_BTS = seen(context.segment_ids_BT, memory.segment_ids_BS)
    else:
        key_BSGK, value_BSGK, mask_BTS = cache.key_BSGK, cache.value_BSGK, cache.visible_BS[:, None]
    q_BTHK = constrain(affine("BTD,DHK->BTHK", x_BTD, p.query, p.query_bias), "batch", "length", "act_heads", None)
    mixed_BTHK = dot_product_attention(q_BTHK, key_BSGK, value_BSGK, mask_BTS, scale=config.scale or None)
    out_BTD = affine("BTHK,HKD->BTD", mixed_BTHK, p.out, p.out_bias)
    return out_BTD, cache, {}


def reference_cross_attention(p: CrossAttention, scale: float, x_TD: jax.Array, memory_SM: jax.Array) -> jax.Array:
    """The slow twin: one text, one head after another, the whole memory real; no biases, keys and values of every
    head."""
    out_TD = jnp.zeros_like(x_TD)
    for head in range(p.query.shape[1]):
        query, key, value = x_TD @ p.query[:, head], memory_SM @ p.key[:, head], memory_SM @ p.value[:, head]
        out_TD += jax.nn.softmax(scale * query @ key.T, axis=-1) @ value @ p.out[head]
    return out_TD


def seen(segment_ids_BT: jax.Array | None, memory_segment_ids_BS: jax.Array) -> jax.Array:
    """Which positions of the memory each position of the stream sees, bool [B, T or 1, S]."""
    if segment_ids_BT is None:
        return memory_segment_ids_BS[:, None] > 0
    return segment_ids_BT[:, :, None] == memory_segment_ids_BS[:, None]


def _keys_and_values(p: CrossAttention, x_BSM: jax.Array) -> tuple[jax.Array, jax.Array]:
    key_BSGK, value_BSGK = (
        affine("BTD,DHK->BTHK", x_BSM, p.key, p.key_bias),
        affine("BTD,DHK->BTHK", x_BSM, p.value, p.value_bias),
    )
    return (
        constrain(key_BSGK, "batch", None, "act_heads", None),
        constrain(value_BSGK, "batch", None, "act_heads", None),
    )
