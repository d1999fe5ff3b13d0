"""Softmax attention with grouped heads, over packed documents or against a cache.

Shape letters: B batch, T query time, S key time, D model width, H query heads, G key/value heads, R query heads per
group (H / G), K head width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import AttentionConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import einsum, product
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.rope import rope_angles, rotate
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class Attention:
    query: jax.Array
    key: jax.Array
    value: jax.Array
    out: jax.Array
    query_bias: jax.Array | None
    key_bias: jax.Array | None
    value_bias: jax.Array | None
    out_bias: jax.Array | None
    query_norm: Norm | None
    key_norm: Norm | None


@struct.dataclass
class KVCache:
    """Keys and values of one layer. Row b holds positions 0 .. length_B[b] - 1; what lies beyond is overwritten before
    it is seen."""

    key_BSGK: jax.Array
    value_BSGK: jax.Array


def attention_spec(model: ModelConfig, config: AttentionConfig) -> Attention:
    """The declarations of one attention layer."""
    D, K, H, G = model.d_model, model.head_width(config), config.num_heads, config.kv_heads
    kv = Param((D, G, K), ("embed", "kv_heads", "head_dim"), out_of_stream(model, fan_in=D))
    kv_bias = Param((G, K), ("kv_heads", "head_dim"), zeros) if config.qkv_bias else None
    head_norm = norm_spec(NormConfig(epsilon=model.norm.epsilon), K, "head_dim") if config.qk_norm != "none" else None
    return Attention(
        query=Param((D, H, K), ("embed", "heads", "head_dim"), out_of_stream(model, fan_in=D)),
        key=kv,
        value=kv,
        out=Param((H, K, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * K)),
        query_bias=Param((H, K), ("heads", "head_dim"), zeros) if config.qkv_bias else None,
        key_bias=kv_bias,
        value_bias=kv_bias,
        out_bias=Param((D,), ("residual",), zeros) if config.out_bias else None,
        query_norm=head_norm,
        key_norm=head_norm,
    )


def attention_cache(model: ModelConfig, config: AttentionConfig, batch: int, length: int) -> KVCache:
    """Room for `length` positions of one layer, in the compute type."""
    shape = (batch, length, config.kv_heads, model.head_width(config))
    dtype = jnp.dtype(model.compute_dtype)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def attention(
    p: Attention,
    model: ModelConfig,
    config: AttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: KVCache | None,
) -> tuple[jax.Array, KVCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache with the new keys and values written in.

    Without a cache a query sees the keys of its own segment at its own or an earlier position. With one, it sees every
    position up to its own.
    """
    positions_BT = context.positions_BT
    q_BTHK = _project(x_BTD, p.query, p.query_bias)
    k_BTGK = _project(x_BTD, p.key, p.key_bias)
    v_BTGK = _project(x_BTD, p.value, p.value_bias)
    if p.query_norm is not None:
        head_norm = NormConfig(epsilon=model.norm.epsilon)
        q_BTHK = normalize(p.query_norm, head_norm, q_BTHK)
        k_BTGK = normalize(p.key_norm, head_norm, k_BTGK)
    if model.positions == "rope":
        cos, sin = rope_angles(positions_BT, model.head_width(config), config.rope.theta)
        q_BTHK, k_BTGK = rotate(q_BTHK, cos, sin), rotate(k_BTGK, cos, sin)
    q_BTHK = constrain(q_BTHK, "batch", "length", "act_heads", None)

    if cache is None:
        k_BSGK = constrain(k_BTGK, "batch", None, "act_heads", None)
        v_BSGK = constrain(v_BTGK, "batch", None, "act_heads", None)
        mask_BTS = visible(positions_BT, positions_BT, context.segment_ids_BT)
    else:
        cache = KVCache(_write(cache.key_BSGK, k_BTGK, positions_BT), _write(cache.value_BSGK, v_BTGK, positions_BT))
        k_BSGK, v_BSGK = cache.key_BSGK, cache.value_BSGK
        mask_BTS = visible(positions_BT, jnp.arange(k_BSGK.shape[1])[None], None)

    mixed_BTHK = dot_product_attention(q_BTHK, k_BSGK, v_BSGK, mask_BTS)
    out_BTD = einsum("BTHK,HKD->BTD", mixed_BTHK, p.out)
    return (out_BTD if p.out_bias is None else out_BTD + p.out_bias.astype(out_BTD.dtype)), cache, {}


def visible(query_positions: jax.Array, key_positions: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Which keys a query may see, bool [B, T, S] (B may be 1): not later than itself, and of its own segment."""
    mask = key_positions[:, None, :] <= query_positions[:, :, None]
    if segment_ids is None:
        return mask
    return mask & (segment_ids[:, None, :] == segment_ids[:, :, None])


def dot_product_attention(q_BTHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v with scores and softmax in float32 (Vaswani et al. 2017, equation 1); [B, T, H, K]
    out."""
    B, T, H, K = q_BTHK.shape
    G = k_BSGK.shape[2]
    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
    scores = product("BTGRK,BSGK->BGRTS", q_BTGRK, k_BSGK) / math.sqrt(K)
    scores = jnp.where(mask_BTS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSGK.dtype)
    return product("BGRTS,BSGK->BTGRK", weights, v_BSGK, v_BSGK.dtype).reshape(B, T, H, K)


def _project(x_BTD: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = einsum("BTD,DHK->BTHK", x_BTD, weight)
    return y if bias is None else y + bias.astype(y.dtype)


def _write(buffer_BSGK: jax.Array, new_BTGK: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Put each row's new entries at its own positions, which follow one another."""
    place = lambda row, new, start: jax.lax.dynamic_update_slice(row, new.astype(row.dtype), (start, 0, 0))  # noqa: E731
    return jax.vmap(place)(buffer_BSGK, new_BTGK, positions_BT[:, 0])
