"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, section 2.1): keys and values of all heads come from one
narrow latent, which is all that the cache holds, next to one rotary key that the heads share.

The naive form makes every head's keys and values from the latents. The absorbed form moves that product over to the
queries and the result, so that all heads look at the latents themselves, as if at one wide key/value head: many times
fewer bytes and operations where queries are few.

Shape letters: B batch, T query time, S key time, D model width, H heads, Q query latent, C key/value latent, N width
without position, R rotary width, K = N + R, V value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.kernels.visibility import Places, Reach, visible
from jaxllm.models.config import LatentAttentionConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import affine, einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.dot_product import dot_product_attention
from jaxllm.models.mixers.kv_cache import write
from jaxllm.models.mixers.rope import (
    Angles,
    depends_on_length,
    rope_angles,
    rotate,
    stretch,
    text_lengths,
    yarn_mscale,
)
from jaxllm.models.mixers.row_attention import row_attention
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class LatentAttention:
    query_down: jax.Array | None
    query_down_bias: jax.Array | None
    query_norm: Norm | None
    query: jax.Array
    """From the query's latent [Q, H, K], or from the stream [D, H, K] where there is none."""
    latent: jax.Array
    latent_bias: jax.Array | None
    latent_norm: Norm
    rope_key: jax.Array
    rope_key_bias: jax.Array | None
    key: jax.Array
    value: jax.Array
    out: jax.Array
    out_bias: jax.Array | None


@struct.dataclass
class LatentCache:
    """The latents, normalized, and the rotary keys, turned, of each position; what lies beyond a row's newest is
    overwritten before it is seen."""

    latent_BSC: jax.Array
    rope_key_BSR: jax.Array


def latent_attention_spec(model: ModelConfig, config: LatentAttentionConfig) -> LatentAttention:
    """The declarations of one layer. Raises ValueError for a model with ALiBi, which latents can't carry."""
    if model.positions == "alibi":
        raise ValueError("latent attention has rotary positions or none: set model.positions, now alibi")
    D, H, Q, C = model.d_model, config.num_heads, config.q_rank, config.kv_rank
    N, R, V = config.nope_dim, config.rope_dim, config.value_dim
    norm = _norm_config(config)

    def inward(width: int, axis: str) -> Param:
        return Param((D, width), ("embed", axis), out_of_stream(model, fan_in=D))

    def bias(width: int, axis: str) -> Param | None:
        return Param((width,), (axis,), zeros) if config.bias else None

    def upward(rank: int, width: int) -> Param:
        return Param((rank, H, width), ("latent", "heads", "head_dim"), out_of_stream(model, fan_in=rank), matrix=True)

    direct = Param((D, H, N + R), ("embed", "heads", "head_dim"), out_of_stream(model, fan_in=D))
    return LatentAttention(
        query_down=inward(Q, "latent") if Q else None,
        query_down_bias=bias(Q, "latent") if Q else None,
        query_norm=norm_spec(norm, Q, "latent") if Q else None,
        query=upward(Q, N + R) if Q else direct,
        latent=inward(C, "latent"),
        latent_bias=bias(C, "latent"),
        latent_norm=norm_spec(norm, C, "latent"),
        rope_key=inward(R, "head_dim"),
        rope_key_bias=bias(R, "head_dim"),
        key=upward(C, N),
        value=upward(C, V),
        out=Param((H, V, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * V)),
        out_bias=bias(D, "residual"),
    )


def latent_attention_cache(model: ModelConfig, config: LatentAttentionConfig, batch: int, length: int) -> LatentCache:
    """Room for `length` positions of one layer in the compute type: kv_rank + rope_dim numbers each."""
    buffer = lambda width: jnp.zeros((batch, length, width), model.compute_dtype)  # noqa: E731
    return LatentCache(buffer(config.kv_rank), buffer(config.rope_dim))


def latent_attention(
    p: LatentAttention,
    model: ModelConfig,
    config: LatentAttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: LatentCache | None,
) -> tuple[jax.Array, LatentCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache with the new latents written in.

    Without a cache a query sees its own segment up to itself; with one, all of its row up to itself.
    """
    positions_BT, scale = context.positions_BT, latent_scale(model, config)
    angles = _angles(model, config, context, cache)
    q_BTHK = _queries(p, config, x_BTD, angles)
    latent_BSC = normalize(p.latent_norm, _norm_config(config), affine("BTD,DF->BTF", x_BTD, p.latent, p.latent_bias))
    rope_key_BSR = affine("BTD,DF->BTF", x_BTD, p.rope_key, p.rope_key_bias)
    if angles is not None:
        rope_key_BSR = rotate(rope_key_BSR[:, :, None], *angles)[:, :, 0]
    if cache is None:
        k_BTHK, v_BTHV = keys_and_values(p, latent_BSC, rope_key_BSR)
        places = Places(positions_BT, context.segment_ids_BT)
        mixed_BTHV = row_attention(
            model.kernels, q_BTHK, k_BTHK, v_BTHV, places, Reach(), bias=context.bias, scale=scale
        )
    else:
        start_B = positions_BT[:, 0]
        cache = LatentCache(
            write(cache.latent_BSC, latent_BSC, start_B), write(cache.rope_key_BSR, rope_key_BSR, start_B)
        )
        key_positions = jnp.arange(cache.latent_BSC.shape[1])[None]
        mask_BTS = visible(Places(positions_BT, None), Places(key_positions, None), Reach())
        attend = absorbed_attention if absorbing_pays(config, x_BTD.shape[1]) else naive_attention
        mixed_BTHV = attend(p, q_BTHK, cache.latent_BSC, cache.rope_key_BSR, mask_BTS, bias=context.bias, scale=scale)
    out_BTD = affine("BTHV,HVD->BTD", mixed_BTHV, p.out, p.out_bias)
    return out_BTD, cache, {}


def naive_attention(
    p: LatentAttention,
    q_BTHK: jax.Array,
    latent_BSC: jax.Array,
    rope_key_BSR: jax.Array,
    mask_BTS: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: float,
) -> jax.Array:
    """Every head's result [B, T, H, V] from its own keys and values."""
    k_BSHK, v_BSHV = keys_and_values(p, latent_BSC, rope_key_BSR)
    k_BSHK, v_BSHV = (constrain(x, "batch", None, "act_heads", None) for x in (k_BSHK, v_BSHV))
    return dot_product_attention(q_BTHK, k_BSHK, v_BSHV, mask_BTS, bias=bias, scale=scale)


def keys_and_values(p: LatentAttention, latent_BSC: jax.Array, rope_key_BSR: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Those of every head, [B, S, H, K] and [B, S, H, V]."""
    k_BSHN = einsum("BSC,CHN->BSHN", latent_BSC, p.key)
    v_BSHV = einsum("BSC,CHV->BSHV", latent_BSC, p.value)
    shared_BSHR = jnp.broadcast_to(rope_key_BSR[:, :, None], (*k_BSHN.shape[:3], rope_key_BSR.shape[-1]))
    return jnp.concatenate([k_BSHN, shared_BSHR], axis=-1), v_BSHV


def absorbed_attention(
    p: LatentAttention,
    q_BTHK: jax.Array,
    latent_BSC: jax.Array,
    rope_key_BSR: jax.Array,
    mask_BTS: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: float,
) -> jax.Array:
    """The same without keys and values: q (W c) = (q W) c, and the average of W c is W times the average of c."""
    q_BTHN, q_BTHR = jnp.split(q_BTHK, [p.key.shape[-1]], axis=-1)
    q_BTHC = einsum("BTHN,CHN->BTHC", q_BTHN, p.key)
    query = constrain(jnp.concatenate([q_BTHC, q_BTHR], axis=-1), "batch", "length", "act_heads", None)
    key = jnp.concatenate([latent_BSC, rope_key_BSR], axis=-1)[:, :, None]
    mixed_BTHC = dot_product_attention(query, key, latent_BSC[:, :, None], mask_BTS, bias=bias, scale=scale)
    return einsum("BTHC,CHV->BTHV", mixed_BTHC, p.value)


def absorbing_pays(config: LatentAttentionConfig, queries: int) -> bool:
    """Whether the absorbed form takes fewer operations, for each head and key: 2 C + R a query, instead of C (N + V)
    for the key and value and N + R + V a query. DeepSeek-V3's widths say up to 170 queries at once."""
    C, N, V = config.kv_rank, config.nope_dim, config.value_dim
    return queries * (2 * C - N - V) < C * (N + V)


def latent_scale(model: ModelConfig, config: LatentAttentionConfig) -> float:
    """The factor of the scores. YaRN with `mscale_all_dim` sharpens them by its mscale, once for the queries and once
    for the keys."""
    if config.scale:
        return config.scale
    scale, rope = (config.nope_dim + config.rope_dim) ** -0.5, config.rope
    if model.positions != "rope" or rope.scaling != "yarn":
        return scale
    return scale * yarn_mscale(stretch(rope, model.context_length), rope.mscale_all_dim) ** 2


def _queries(p: LatentAttention, config: LatentAttentionConfig, x_BTD: jax.Array, angles: Angles | None) -> jax.Array:
    if p.query_down is None:
        q_BTHK = einsum("BTD,DHK->BTHK", x_BTD, p.query)
    else:
        q_BTQ = normalize(
            p.query_norm, _norm_config(config), affine("BTD,DF->BTF", x_BTD, p.query_down, p.query_down_bias)
        )
        q_BTHK = einsum("BTQ,QHK->BTHK", q_BTQ, p.query)
    if angles is not None:
        q_BTHN, q_BTHR = jnp.split(q_BTHK, [config.nope_dim], axis=-1)
        q_BTHK = jnp.concatenate([q_BTHN, rotate(q_BTHR, *angles)], axis=-1)
    return constrain(q_BTHK, "batch", "length", "act_heads", None)


def _angles(
    model: ModelConfig, config: LatentAttentionConfig, context: Context, cache: LatentCache | None
) -> Angles | None:
    if model.positions != "rope":
        return None
    length = None
    if depends_on_length(config.rope):
        whole = cache is None
        length = text_lengths(context.positions_BT, context.segment_ids_BT) if whole else cache.latent_BSC.shape[1]
    return rope_angles(context.positions_BT, config.rope_dim, config.rope, model.context_length, length)


def _norm_config(config: LatentAttentionConfig) -> NormConfig:
    return NormConfig(epsilon=config.norm_epsilon)
