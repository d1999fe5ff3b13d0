"""Softmax attention with grouped heads, over packed documents or against a cache.

Shape letters: B batch, T query time, S key time, D model width, H query heads, G key/value heads, K head width.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from jaxllm.kernels.visibility import Places, Reach, visible
from jaxllm.models.config import AttentionConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Param, ones, zeros
from jaxllm.models.einsum import affine
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.alibi import alibi_bias
from jaxllm.models.mixers.dot_product import dot_product_attention
from jaxllm.models.mixers.kv_cache import KVCache, empty_kv_cache, remember
from jaxllm.models.mixers.rope import depends_on_length, rope_angles, rotate, text_lengths
from jaxllm.models.mixers.row_attention import row_attention
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
    gate: jax.Array | None = None
    gate_bias: jax.Array | None = None
    sinks: jax.Array | None = None


def attention_spec(model: ModelConfig, config: AttentionConfig) -> Attention:
    """The declarations of one attention layer."""
    D, K, H, G = model.d_model, model.head_width(config), config.num_heads, config.kv_heads
    query = Param((D, H, K), ("embed", "heads", "head_dim"), out_of_stream(model, fan_in=D))
    query_bias = Param((H, K), ("heads", "head_dim"), zeros) if config.qkv_bias else None
    kv = Param((D, G, K), ("embed", "kv_heads", "head_dim"), out_of_stream(model, fan_in=D))
    kv_bias = Param((G, K), ("kv_heads", "head_dim"), zeros) if config.qkv_bias else None
    return Attention(
        query=query,
        key=kv,
        value=kv,
        out=Param((H, K, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * K)),
        query_bias=query_bias,
        key_bias=kv_bias,
        value_bias=kv_bias,
        out_bias=Param((D,), ("residual",), zeros) if config.out_bias else None,
        query_norm=_head_norm_spec(model, config, "heads", H, K),
        key_norm=_head_norm_spec(model, config, "kv_heads", G, K),
        gate=query if config.gate else None,
        gate_bias=query_bias if config.gate else None,
        sinks=Param((H,), ("heads",), zeros) if config.sinks else None,
    )


def attention_cache(model: ModelConfig, config: AttentionConfig, batch: int, length: int) -> KVCache:
    """Room for `length` positions of one layer in the compute type; for no more than a window or chunk where there is
    one. Raises ValueError for attention to later tokens, which can't be continued."""
    if not config.causal:
        raise ValueError(
            "attention.causal=false sees later tokens, so there is no continuing from a cache: give whole sequences"
        )
    K, reach = model.head_width(config), min(filter(None, (config.window, config.chunk)), default=0)
    return empty_kv_cache(batch, length, config.kv_heads, K, K, model.compute_dtype, reach=reach)


def attention(
    p: Attention,
    model: ModelConfig,
    config: AttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: KVCache | None,
) -> tuple[jax.Array, KVCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache with the new keys and values written in.

    Without a cache a query sees keys of its own segment; with one, all of its row. Of those it sees the ones that
    causality, window and chunk leave.
    """
    positions_BT = context.positions_BT
    q_BTHK, k_BTGK = _queries_and_keys(p, model, config, x_BTD, context, cache)
    v_BTGK = affine("BTD,DHK->BTHK", x_BTD, p.value, p.value_bias)
    q_BTHK, k_BTGK, v_BTGK = checkpoint_name((q_BTHK, k_BTGK, v_BTGK), "qkv")
    scores = {"softcap": config.softcap, "sinks": p.sinks, "scale": _scale(model, config)}
    reach = Reach(config.causal, config.window, config.chunk)
    if cache is None:
        segment_ids = context.segment_ids_BT
        if segment_ids is None and not config.causal and context.valid_BT is not None:
            segment_ids = context.valid_BT  # nothing else would hide the padding
        bias = _bias(model, config, context, positions_BT, k_BTGK.shape[1])
        mixed_BTHK = row_attention(
            model.kernels, q_BTHK, k_BTGK, v_BTGK, Places(positions_BT, segment_ids), reach, bias=bias, **scores
        )
    else:
        cache, k_BSGK, v_BSGK, key_positions = remember(cache, k_BTGK, v_BTGK, positions_BT, context.valid_BT)
        mask_BTS = visible(Places(positions_BT, None), Places(key_positions, None), reach)
        bias = _bias(model, config, context, key_positions, k_BSGK.shape[1])
        mixed_BTHK = dot_product_attention(q_BTHK, k_BSGK, v_BSGK, mask_BTS, bias=bias, **scores)
    mixed_BTHK = checkpoint_name(mixed_BTHK, "attention")
    if p.gate is not None:
        gate_BTHK = affine("BTD,DHK->BTHK", x_BTD, p.gate, p.gate_bias).astype(jnp.float32)
        mixed_BTHK = mixed_BTHK * jax.nn.sigmoid(gate_BTHK).astype(mixed_BTHK.dtype)
    out_BTD = affine("BTHK,HKD->BTD", mixed_BTHK, p.out, p.out_bias)
    return out_BTD, cache, {}


def _queries_and_keys(
    p: Attention,
    model: ModelConfig,
    config: AttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: KVCache | None,
) -> tuple[jax.Array, jax.Array]:
    """Queries [B, T, H, K] and keys [B, T, G, K] as they meet: normalized and turned."""
    q_BTHK = _head_norm(p.query_norm, model, config, affine("BTD,DHK->BTHK", x_BTD, p.query, p.query_bias))
    k_BTGK = _head_norm(p.key_norm, model, config, affine("BTD,DHK->BTHK", x_BTD, p.key, p.key_bias))
    if model.positions == "rope" and not config.no_positions:
        length = None
        if depends_on_length(config.rope):
            length = text_lengths(context.positions_BT, context.segment_ids_BT) if cache is None else cache.length
        angles = rope_angles(context.positions_BT, model.head_width(config), config.rope, model.context_length, length)
        q_BTHK, k_BTGK = rotate(q_BTHK, *angles), rotate(k_BTGK, *angles)
    return constrain(q_BTHK, "batch", "length", "act_heads", None), k_BTGK


def _head_norm_spec(model: ModelConfig, config: AttentionConfig, axis: str, heads: int, width: int) -> Norm | None:
    if config.qk_norm == "none":
        return None
    norm = _head_norm_config(model)
    if config.qk_norm == "shared":
        return norm_spec(norm, width, "head_dim")
    start = zeros if norm.unit_offset else ones
    return Norm(scale=Param((heads, width), (axis, "head_dim"), start), bias=None)


def _head_norm(p: Norm | None, model: ModelConfig, config: AttentionConfig, x_BTHK: jax.Array) -> jax.Array:
    """Queries or keys, each head normalized by itself, or all of them together."""
    if p is None:
        return x_BTHK
    if config.qk_norm != "whole":
        return normalize(p, _head_norm_config(model), x_BTHK)
    flat = x_BTHK.reshape(*x_BTHK.shape[:2], -1)
    return normalize(p.replace(scale=p.scale.reshape(-1)), _head_norm_config(model), flat).reshape(x_BTHK.shape)


def _head_norm_config(model: ModelConfig) -> NormConfig:
    return replace(model.norm, bias=False, scale=True)


def _scale(model: ModelConfig, config: AttentionConfig) -> float:
    return config.scale or model.head_width(config) ** -0.5


def _bias(
    model: ModelConfig, config: AttentionConfig, context: Context, key_positions: jax.Array, keys: int
) -> jax.Array | None:
    """What is added to the scores: ALiBi, what the caller gave, both or nothing."""
    bias = None
    if model.positions == "alibi" and not config.no_positions:
        bias = alibi_bias(context.positions_BT, key_positions, config.num_heads)
        if config.alibi_scaled:
            bias = bias * _scale(model, config)
    if context.bias is None:
        return bias
    if context.bias.shape[-1] != keys:
        raise ValueError(
            f"context.bias is for {context.bias.shape[-1]} keys, but queries look at {keys}: at as many as there are "
            "tokens, or slots of the cache; a window's cache has no fixed places, so it takes no bias"
        )
    return context.bias if bias is None else bias + context.bias
