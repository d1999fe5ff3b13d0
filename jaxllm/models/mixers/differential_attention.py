"""Differential attention: the difference of two softmax maps, which cancels what both see alike.

Version 1 (Ye et al. 2024): two maps of half-width queries and keys share values of full width; lambda is learned for
each layer, and each head's output is normalized. Version 2 (its authors' code in the unilm repository): twice the query
heads on the key/value heads of ordinary grouped attention, a pair inside one group, and lambda a sigmoid computed from
each token; the cache is that of grouped attention.

Shape letters: B batch, T query time, S key time, D model width, H heads, G key/value heads, K head width, V value
width (2 K in version 1, K in version 2), M the two maps.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.kernels.visibility import Places, Reach, visible
from jaxllm.models.config import DifferentialAttentionConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Param, normal, zeros
from jaxllm.models.einsum import affine, einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.dot_product import dot_product_attention
from jaxllm.models.mixers.kv_cache import KVCache, empty_kv_cache, remember
from jaxllm.models.mixers.rope import depends_on_length, rope_angles, rotate, text_lengths
from jaxllm.models.mixers.row_attention import row_attention
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class DifferentialAttention:
    query: jax.Array  # [D, H, M, K]
    key: jax.Array  # [D, G, M, K], [D, G, 1, K] in version 2
    value: jax.Array  # [D, G, V]
    out: jax.Array  # [H, V, D]
    query_bias: jax.Array | None  # [H, M, K]
    key_bias: jax.Array | None
    value_bias: jax.Array | None
    out_bias: jax.Array | None
    lambda_query_1: jax.Array | None  # version 1: [K], here and below
    lambda_key_1: jax.Array | None
    lambda_query_2: jax.Array | None
    lambda_key_2: jax.Array | None
    norm: Norm | None  # version 1: over V
    lambda_token: jax.Array | None  # version 2: [D, H]


def differential_attention_spec(model: ModelConfig, config: DifferentialAttentionConfig) -> DifferentialAttention:
    """The declarations of one layer."""
    D, K, H, G, first = model.d_model, model.head_width(config), config.num_heads, config.kv_heads, config.version == 1
    V, key_maps = (2 * K, 2) if first else (K, 1)
    inward = out_of_stream(model, fan_in=D)
    lambda_part = Param((K,), ("head_dim",), normal(0.1)) if first else None

    def bias(*shape: int, axes: tuple[str, ...]) -> Param | None:
        return Param(shape, axes, zeros) if config.bias else None

    return DifferentialAttention(
        query=Param((D, H, 2, K), ("embed", "heads", "head_dim", "head_dim"), inward),
        key=Param((D, G, key_maps, K), ("embed", "kv_heads", "head_dim", "head_dim"), inward),
        value=Param((D, G, V), ("embed", "kv_heads", "head_dim"), inward),
        out=Param((H, V, D), ("heads", "head_dim", "embed"), into_stream(model, fan_in=H * V)),
        query_bias=bias(H, 2, K, axes=("heads", "head_dim", "head_dim")),
        key_bias=bias(G, key_maps, K, axes=("kv_heads", "head_dim", "head_dim")),
        value_bias=bias(G, V, axes=("kv_heads", "head_dim")),
        out_bias=bias(D, axes=("residual",)),
        lambda_query_1=lambda_part,
        lambda_key_1=lambda_part,
        lambda_query_2=lambda_part,
        lambda_key_2=lambda_part,
        norm=norm_spec(_head_norm(model, config), V, "head_dim") if first else None,
        lambda_token=None if first else Param((D, H), ("embed", "heads"), inward),
    )


def differential_attention_cache(
    model: ModelConfig, config: DifferentialAttentionConfig, batch: int, length: int
) -> KVCache:
    """Room for `length` positions of one layer, in the compute type: as many bytes as grouped attention takes."""
    K = model.head_width(config)
    width = 2 * K if config.version == 1 else K
    return empty_kv_cache(batch, length, config.kv_heads, width, width, model.compute_dtype, reach=config.window)


def differential_attention(
    p: DifferentialAttention,
    model: ModelConfig,
    config: DifferentialAttentionConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: KVCache | None,
) -> tuple[jax.Array, KVCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D], the cache with the new keys and values, and the mean lambda."""
    q_BTHMK, k_BTGMK = _queries_and_keys(p, model, config, x_BTD, context, cache)
    v_BTGV = affine("BTD,DGV->BTGV", x_BTD, p.value, p.value_bias)
    k_BTGX = k_BTGMK.reshape(*k_BTGMK.shape[:3], -1)  # both maps side by side
    reach = Reach(window=config.window)
    if cache is None:
        k_BSGX, v_BSGV, places = k_BTGX, v_BTGV, Places(context.positions_BT, context.segment_ids_BT)
        attend = lambda q, k: row_attention(model.kernels, q, k, v_BSGV, places, reach)  # noqa: E731
    else:
        cache, k_BSGX, v_BSGV, key_positions = remember(cache, k_BTGX, v_BTGV, context.positions_BT, context.valid_BT)
        mask_BTS = visible(Places(context.positions_BT, None), Places(key_positions, None), reach)
        attend = lambda q, k: dot_product_attention(q, k, v_BSGV, mask_BTS)  # noqa: E731
    k_BSGMK = k_BSGX.reshape(*k_BSGX.shape[:3], *k_BTGMK.shape[3:])
    if config.version == 1:
        maps = (attend(q_BTHMK[..., m, :], k_BSGMK[..., m, :]).astype(jnp.float32) for m in range(2))
        mixed_BTHV, lambda_ = _difference_1(p, model, config, *maps, context.layer)
    else:
        B, T, H, M, K = q_BTHMK.shape
        both = attend(q_BTHMK.reshape(B, T, H * M, K), k_BSGMK[..., 0, :])
        both_BTHMV = both.astype(jnp.float32).reshape(B, T, H, M, -1)
        lambda_ = jax.nn.sigmoid(einsum("BTD,DH->BTH", x_BTD, p.lambda_token).astype(jnp.float32))
        mixed_BTHV = both_BTHMV[..., 0, :] - lambda_[..., None] * both_BTHMV[..., 1, :]
    out_BTD = affine("BTHV,HVD->BTD", mixed_BTHV.astype(x_BTD.dtype), p.out, p.out_bias)
    return out_BTD, cache, {"lambda": lambda_.mean()}


def lambda_init(config: DifferentialAttentionConfig, layer: jax.Array | int) -> jax.Array | float:
    """Version 1's lambda at the start: the deeper, the larger, up to 0.8 (Ye et al. 2024, section 2.1)."""
    return config.lambda_init or 0.8 - 0.6 * jnp.exp(-0.3 * layer)


def _difference_1(p, model, config, first_BTHV, second_BTHV, layer):
    start = lambda_init(config, layer)
    exponent_1 = jnp.dot(p.lambda_query_1, p.lambda_key_1, preferred_element_type=jnp.float32)
    exponent_2 = jnp.dot(p.lambda_query_2, p.lambda_key_2, preferred_element_type=jnp.float32)
    lambda_ = jnp.exp(exponent_1) - jnp.exp(exponent_2) + start
    difference = normalize(p.norm, _head_norm(model, config), first_BTHV - lambda_ * second_BTHV)
    return difference * (1 - start), lambda_


def _queries_and_keys(p, model, config, x_BTD, context: Context, cache: KVCache | None):
    q_BTHMK = affine("BTD,DHMK->BTHMK", x_BTD, p.query, p.query_bias)
    k_BTGMK = affine("BTD,DGMK->BTGMK", x_BTD, p.key, p.key_bias)
    if model.positions == "rope":
        length = None
        if depends_on_length(config.rope):
            length = text_lengths(context.positions_BT, context.segment_ids_BT) if cache is None else cache.length
        angles = rope_angles(context.positions_BT, model.head_width(config), config.rope, model.context_length, length)
        turn = lambda x: rotate(x.reshape(*x.shape[:2], -1, x.shape[-1]), *angles).reshape(x.shape)  # noqa: E731
        q_BTHMK, k_BTGMK = turn(q_BTHMK), turn(k_BTGMK)
    return constrain(q_BTHMK, "batch", "length", "act_heads", None, None), k_BTGMK


def _head_norm(model: ModelConfig, config: DifferentialAttentionConfig) -> NormConfig:
    return NormConfig(epsilon=model.norm.epsilon, scale=config.head_norm_scale)
