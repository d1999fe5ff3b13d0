"""Softmax attention a block of queries and a block of keys at a time: memory grows with the length, not its square.

The softmax is computed as keys come in (Milakov and Gimelshein 2018; Rabe and Staats 2021), and the backward pass makes
the scores again instead of keeping them (FlashAttention, Dao et al. 2022, algorithm 4). What a part of the keys
contributes is an average and the logarithm of its weight, so parts can be computed apart, even on different devices,
and merged.

Shape letters: B batch, T query time, S key time, H query heads, G key/value heads, R query heads of a group (H / G),
K width of queries and keys, V width of values, C queries of a block, X keys of a block, N blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.kernels.visibility import Places, Reach, may_meet, visible

# The logarithm of no weight at all: finite, so that differences of it are.
NOTHING = -1e30
BLOCK = 512
WITHIN_SEGMENT = Reach()


@dataclass(frozen=True)
class Scores:
    """How scores are made from queries and keys."""

    reach: Reach
    softcap: float
    scale: float
    block: int


@struct.dataclass
class Partial:
    """What some of the keys contribute, float32."""

    mean_BTHV: jax.Array
    log_weight_BTH: jax.Array
    """The logarithm of the sum of exp(score); NOTHING where no key was seen."""


def blockwise_attention(
    q_BTHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGV: jax.Array,
    query: Places,
    key: Places,
    reach: Reach = WITHIN_SEGMENT,
    *,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
    scale: float | None = None,
    block: int = BLOCK,
) -> jax.Array:
    """Each query's average of the values it may see, weighted by the softmax of its scores; [B, T, H, V] out, in the
    type of the values, zeros where no key is seen.

    Scores are q k^T times `scale` (None: 1 / sqrt(K)), capped, in float32. Query head h looks at key head h // (H / G).
    `sinks` [H] are scores that take their part of the softmax and have no value. Blocks are of `block` tokens; those of
    scores that nobody may see are left out. Differentiable in reverse mode, in q, k, v and sinks.
    """
    scores = Scores(reach, softcap, scale or 1 / math.sqrt(q_BTHK.shape[-1]), block)
    return _attention(scores, q_BTHK, k_BSGK, v_BSGV, sinks, query, key)


def reference_blockwise_attention(
    q_BTHK, k_BSGK, v_BSGV, query: Places, key: Places, reach=WITHIN_SEGMENT, *, softcap=0.0, sinks=None, scale=None
) -> jax.Array:
    """The slow twin: all scores at once, a head at a time, float32."""
    (B, T, H, K), G = q_BTHK.shape, k_BSGK.shape[2]
    q, k, v = (x.astype(jnp.float32) for x in (q_BTHK, k_BSGK, v_BSGV))
    mask = visible(query, key, reach)
    mask = jnp.ones((B, T, k.shape[1]), bool) if mask is None else mask
    heads = []
    for h in range(H):
        group = h // (H // G)
        scores = q[:, :, h] @ jnp.swapaxes(k[:, :, group], 1, 2) * (scale or K**-0.5)
        scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
        weights = jnp.where(mask, jnp.exp(scores), 0)
        total = weights.sum(-1, keepdims=True) + (0 if sinks is None else jnp.exp(sinks[h]))
        heads.append(weights / jnp.maximum(total, 1e-30) @ v[:, :, group])
    return jnp.stack(heads, axis=2)


def merge(a: Partial, b: Partial) -> Partial:
    """What two parts of the keys contribute together."""
    log_weight = jnp.logaddexp(a.log_weight_BTH, b.log_weight_BTH)
    part = lambda p: jnp.exp(p.log_weight_BTH - log_weight)[..., None] * p.mean_BTHV  # noqa: E731
    return Partial(part(a) + part(b), log_weight)


def beside_sinks(whole: Partial, sinks: jax.Array | None) -> Partial:
    """The same with a key of score `sinks` [H] and value 0 among the others."""
    if sinks is None:
        return whole
    sink_BTH = jnp.broadcast_to(sinks.astype(jnp.float32), whole.log_weight_BTH.shape)
    return merge(whole, Partial(jnp.zeros_like(whole.mean_BTHV), sink_BTH))


def empty_partial(q_BTHK: jax.Array, v_BSGV: jax.Array) -> Partial:
    """What no keys contribute."""
    heads = q_BTHK.shape[:3]
    return Partial(jnp.zeros((*heads, v_BSGV.shape[-1]), jnp.float32), jnp.full(heads, NOTHING))


def forward_blocks(scores: Scores, q_BTHK, k_BSGK, v_BSGV, query: Places, key: Places) -> Partial:
    """What these keys contribute to these queries."""
    B, T, H, _ = q_BTHK.shape
    G, V = v_BSGV.shape[2:]
    query = _no_constants(query, q_BTHK)
    queries, keys = _blocks(q_BTHK, G, scores.block), _blocks((k_BSGK, v_BSGV), None, scores.block)
    query_places, key_places = _place_blocks(query, B, T, scores.block, -2), _key_places(key, B, k_BSGK, scores.block)

    def of_queries(block):
        q_BCGRK, query = block
        C = q_BCGRK.shape[1]
        start = (
            jnp.zeros((B, G, H // G, C, V), jnp.float32),
            jnp.zeros((B, G, H // G, C), jnp.float32),
            jnp.full((B, G, H // G, C), NOTHING),
        )

        def take_in(carry, block):
            (k_BXGK, v_BXGV), key = block
            total, weight, highest = carry
            score_BGRCX, mask = _scores(scores, q_BCGRK, k_BXGK, query, key)
            now = jnp.maximum(highest, jnp.where(mask, score_BGRCX, NOTHING).max(-1))
            part = jnp.where(mask, jnp.exp(score_BGRCX - now[..., None]), 0)
            shrink = jnp.exp(highest - now)
            added = _product("BGRCX,BXGV->BGRCV", part.astype(v_BXGV.dtype), v_BXGV)
            return total * shrink[..., None] + added, weight * shrink + part.sum(-1), now

        def step(carry, block):
            return jax.lax.cond(may_meet(query, block[1], scores.reach), take_in, lambda c, _: c, carry, block), None

        (total, weight, highest), _ = jax.lax.scan(step, start, (keys, key_places))
        seen = weight > 0
        log_weight = jnp.where(seen, highest + jnp.log(jnp.where(seen, weight, 1)), NOTHING)
        return jnp.moveaxis(total / jnp.where(seen, weight, 1)[..., None], 3, 1), jnp.moveaxis(log_weight, 3, 1)

    mean, log_weight = jax.lax.map(of_queries, (queries, query_places))
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(B, -1, H, *x.shape[5:])[:, :T]  # noqa: E731
    return Partial(join(mean), join(log_weight))


def backward_blocks(
    scores: Scores, q_BTHK, k_BSGK, v_BSGV, query: Places, key: Places, log_weight_BTH, inner_BTH, cotangent_BTHV
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Float32 gradients of q, k and v, as far as these keys go.

    `log_weight_BTH` is that of all keys of the queries and `inner_BTH` the product of the whole result with its
    cotangent (the paper's D), so each part of the keys can be worked on by itself.
    """
    B, T, H, K = q_BTHK.shape
    S, G, V = v_BSGV.shape[1:]
    of_queries = (q_BTHK, cotangent_BTHV, log_weight_BTH[..., None], inner_BTH[..., None])
    of_queries = (_blocks(of_queries, G, scores.block), _place_blocks(query, B, T, scores.block, -2))
    keys, key_places = _blocks((k_BSGK, v_BSGV), None, scores.block), _key_places(key, B, k_BSGK, scores.block)
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), keys)

    def of_block(key_grads, block):
        (q_BCGRK, cotangent_BCGRV, log_weight, inner), query = block
        log_weight, inner = (jnp.moveaxis(x, 1, 3) for x in (log_weight, inner))  # [B, G, R, C, 1]

        def take_in(grad_q, block):
            (k_BXGK, v_BXGV), key, (grad_k, grad_v) = block
            score, mask = _scores(scores, q_BCGRK, k_BXGK, query, key)
            weight = jnp.where(mask, jnp.exp(score - log_weight), 0)
            grad_weight = _product("BCGRV,BXGV->BGRCX", cotangent_BCGRV, v_BXGV)
            grad_score = weight * (grad_weight - inner) * scores.scale
            if scores.softcap:
                grad_score = grad_score * (1 - jnp.square(score / scores.softcap))
            weight, grad_score = weight.astype(v_BXGV.dtype), grad_score.astype(k_BXGK.dtype)
            grad_q = grad_q + _product("BGRCX,BXGK->BCGRK", grad_score, k_BXGK)
            grad_k = grad_k + _product("BGRCX,BCGRK->BXGK", grad_score, q_BCGRK)
            grad_v = grad_v + _product("BGRCX,BCGRV->BXGV", weight, cotangent_BCGRV)
            return grad_q, (grad_k, grad_v)

        def step(grad_q, block):
            meets = may_meet(query, block[1], scores.reach)
            return jax.lax.cond(meets, take_in, lambda grad_q, block: (grad_q, block[2]), grad_q, block)

        grad_q, key_grads = jax.lax.scan(step, jnp.zeros(q_BCGRK.shape, jnp.float32), (keys, key_places, key_grads))
        return key_grads, grad_q

    (grad_k, grad_v), grad_q = jax.lax.scan(of_block, none, of_queries)
    join = lambda x, length: jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :length]  # noqa: E731
    return join(grad_q, T).reshape(B, T, H, K), join(grad_k, S), join(grad_v, S)


def sink_gradient(sinks: jax.Array | None, log_weight_BTH: jax.Array, inner_BTH: jax.Array) -> jax.Array | None:
    """A sink has no value, so all it does is take weight from the others."""
    if sinks is None:
        return None
    return -(jnp.exp(sinks.astype(jnp.float32) - log_weight_BTH) * inner_BTH).sum((0, 1)).astype(sinks.dtype)


def inner_product(mean_BTHV: jax.Array, cotangent_BTHV: jax.Array) -> jax.Array:
    """The result times its cotangent, summed over its width: float32 [B, T, H]."""
    return (mean_BTHV.astype(jnp.float32) * cotangent_BTHV.astype(jnp.float32)).sum(-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(scores: Scores, q_BTHK, k_BSGK, v_BSGV, sinks, query: Places, key: Places):
    return _forward(scores, q_BTHK, k_BSGK, v_BSGV, sinks, query, key)[0]


def _forward(scores, q_BTHK, k_BSGK, v_BSGV, sinks, query, key):
    whole = beside_sinks(forward_blocks(scores, q_BTHK, k_BSGK, v_BSGV, query, key), sinks)
    out_BTHV = whole.mean_BTHV.astype(v_BSGV.dtype)
    return out_BTHV, (q_BTHK, k_BSGK, v_BSGV, sinks, query, key, out_BTHV, whole.log_weight_BTH)


def _backward(scores, residuals, cotangent_BTHV):
    q_BTHK, k_BSGK, v_BSGV, sinks, query, key, out_BTHV, log_weight_BTH = residuals
    inner_BTH = inner_product(out_BTHV, cotangent_BTHV)
    grads = backward_blocks(
        scores, q_BTHK, k_BSGK, v_BSGV, query, key, log_weight_BTH, inner_BTH, cotangent_BTHV.astype(v_BSGV.dtype)
    )
    grads = (grad.astype(x.dtype) for grad, x in zip(grads, (q_BTHK, k_BSGK, v_BSGV), strict=True))
    return *grads, sink_gradient(sinks, log_weight_BTH, inner_BTH), None, None


_attention.defvjp(_forward, _backward)


def _scores(scores: Scores, q_BCGRK, k_BXGK, query: Places, key: Places) -> tuple[jax.Array, jax.Array]:
    """Float32 [B, G, R, C, X] and which of them count, [B, 1, 1, C, X]."""
    score = _product("BCGRK,BXGK->BGRCX", q_BCGRK, k_BXGK) * scores.scale
    if scores.softcap:
        score = scores.softcap * jnp.tanh(score / scores.softcap)
    return score, visible(query, key, scores.reach)[:, None, None]


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _blocks(arrays, groups: int | None, block: int):
    """[B, T, ...] to [N, B, block, ...], the last block filled up with zeros; heads in groups where these are given."""

    def split(x):
        B, T = x.shape[:2]
        C = min(block, T)
        x = jnp.pad(x, ((0, 0), (0, -T % C), *[(0, 0)] * (x.ndim - 2)))
        heads = x.shape[2:] if groups is None else (groups, x.shape[2] // groups, *x.shape[3:])
        return jnp.moveaxis(x.reshape(B, -1, C, *heads), 1, 0)

    return jax.tree.map(split, arrays)


def _no_constants(places: Places, x: jax.Array) -> Places:
    """The same places, but as if they depended on `x`.

    Where a scan over layers is differentiated, JAX works out beforehand what is the same in each layer: of constant
    places the masks of all blocks, which are as many as there are scores.
    """
    return jax.lax.optimization_barrier((places, x[:1, :1, :1, :1]))[0]


def _place_blocks(places: Places, batch: int, length: int, block: int, nowhere: int) -> Places:
    """The same of places; what fills up the last block is of a segment that nobody else is in."""
    C = min(block, length)
    fill = ((0, 0), (0, -length % C))
    segments = jnp.zeros((1, length), jnp.int32) if places.segment_ids_BT is None else places.segment_ids_BT
    positions = jnp.pad(jnp.broadcast_to(places.positions_BT, (batch, length)), fill)
    segments = jnp.pad(jnp.broadcast_to(segments, (batch, length)), fill, constant_values=nowhere)
    split = lambda x: jnp.moveaxis(x.reshape(batch, -1, C), 1, 0)  # noqa: E731
    return Places(split(positions), split(segments))


def _key_places(places: Places, batch: int, k_BSGK: jax.Array, block: int) -> Places:
    return _place_blocks(places, batch, k_BSGK.shape[1], block, -1)
