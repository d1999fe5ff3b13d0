"""softmax(q k^T) v: the one function that every layer of softmax attention ends in, and its slow twin.

Shape letters: B batch, T query time, S key time, H query heads, G key/value heads, R query heads of a group (H / G),
K width of queries and keys, V width of values.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxllm.models.einsum import product
from jaxllm.models.remat import recomputable


@recomputable
def dot_product_attention(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGV: jax.Array,
    mask_BTS: jax.Array | None,
    *,
    bias: jax.Array | None = None,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """Each query's average of the values it may see, weighted by the softmax of its scores; [B, T, H, V] out.

    Scores are q k^T times `scale` (None: 1 / sqrt(K)), capped, plus `bias` [B or 1, H, T, S]; they and the softmax are
    in float32. Query head h looks at key head h // R. `sinks` [H] are scores that take their part of the softmax and
    have no value. Without a mask every key is seen; what a query gets that may see none means nothing.

    Sources: Vaswani et al. 2017, equation 1; groups, Ainslie et al. 2023; caps, Gemma 2; sinks, Xiao et al. 2024 and
    GPT-OSS.
    """
    B, T, H, K = q_BTHK.shape
    G = k_BSGK.shape[2]
    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
    scores = product("BTGRK,BSGK->BGRTS", q_BTGRK, k_BSGK) * (scale or 1 / math.sqrt(K))
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.reshape(-1, G, H // G, *bias.shape[2:])
    if mask_BTS is not None:
        scores = jnp.where(mask_BTS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    if sinks is None:
        weights = jax.nn.softmax(scores, axis=-1)
    else:
        weights = _softmax_beside(scores, sinks.astype(jnp.float32).reshape(G, H // G, 1, 1))
    weights = weights.astype(v_BSGV.dtype)
    return product("BGRTS,BSGV->BTGRV", weights, v_BSGV, v_BSGV.dtype).reshape(B, T, H, v_BSGV.shape[-1])


def _softmax_beside(scores: jax.Array, sink: jax.Array) -> jax.Array:
    """The softmax of the scores and one more, without the weight of that one."""
    highest = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), sink))
    weights = jnp.exp(scores - highest)
    return weights / (weights.sum(axis=-1, keepdims=True) + jnp.exp(sink - highest))


def reference_attention(
    q_BTHK, k_BSGK, v_BSGV, mask_BTS, *, bias=None, softcap=0.0, sinks=None, scale=None
) -> jax.Array:
    """The slow twin of `dot_product_attention`: a head at a time, in float32. Each query must see a key."""
    q, k, v = (x.astype(jnp.float32) for x in (q_BTHK, k_BSGK, v_BSGV))
    H, G, K = q.shape[2], k.shape[2], q.shape[3]
    heads = []
    for h in range(H):
        group = h // (H // G)
        scores = q[:, :, h] @ jnp.swapaxes(k[:, :, group], 1, 2) * (scale or K**-0.5)
        scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
        scores = scores if bias is None else scores + bias[:, h]
        weights = jnp.exp(scores) if mask_BTS is None else jnp.exp(scores) * mask_BTS
        total = weights.sum(-1, keepdims=True) + (0 if sinks is None else jnp.exp(sinks[h]))
        heads.append(weights / total @ v[:, :, group])
    return jnp.stack(heads, axis=2)
