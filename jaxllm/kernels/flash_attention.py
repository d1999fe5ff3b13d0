"""Flash attention on TPUs: JAX's splash attention kernel (Pallas) under this project's conventions.

Scores exist one tile at a time, in the backward pass too, so memory is linear in the length; tiles that causality or a
window hide are not computed. Source: Dao et al. 2022; the kernel is jax.experimental.pallas.ops.tpu.splash_attention.

Shape letters: B batch, T time, H query heads, G key/value heads, K width of queries and keys, V width of values.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.on_mesh import run_on_mesh
from jaxllm.kernels.platform import is_interpreting
from jaxllm.kernels.stated_work import stated_operations
from jaxllm.kernels.tuning import FlashTiles, flash_tiles

# A TPU's registers are 128 lanes wide, and the kernel's tiles are whole numbers of them.
LANES = 128


def flash_attention(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGV: jax.Array,
    ids_BT: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    sinks_H: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """What `reference_flash_attention` computes, [B, T, H, V], in the type of `q`.

    A query sees keys of its own id that are in its row not later than itself (if `causal`) and within the window
    (`window` tokens with its own the last of them; not causal: `window // 2` on either side). Softmax in float32. On a
    mesh each device takes its rows and heads. Compiles for TPUs only; under `interpreting()` it runs anywhere. Raises
    ValueError where the mesh does not divide the heads.
    """
    seen = {"causal": causal, "window": window, "softcap": softcap, "scale": scale}
    local = lambda q, k, v, ids, sinks: local_flash_attention(q, k, v, ids, sinks, **seen)  # noqa: E731
    heads = ("batch", None, "act_heads", None)
    axes = (heads, heads, heads, ("batch", None), ("act_heads",))
    return run_on_mesh(local, (q_BTHK, k_BTGK, v_BTGV, ids_BT, sinks_H), axes, heads)


def reference_flash_attention(q, k, v, ids=None, *, causal=True, window=0, softcap=0.0, sinks_H=None, scale=None):
    """The slow twin: every score at once, in float32."""
    T, H, G, K = q.shape[1], q.shape[2], k.shape[2], q.shape[3]
    q, k, v = q.astype(jnp.float32), *(jnp.repeat(x.astype(jnp.float32), H // G, axis=2) for x in (k, v))
    scores = jnp.einsum("BTHK,BSHK->BHTS", q, k, precision="highest") * (K**-0.5 if scale is None else scale)
    scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
    back = jnp.arange(T)[:, None] - jnp.arange(T)
    seen = (back >= 0) if causal else jnp.full((T, T), True)
    seen &= (back < window) if window and causal else (abs(back) <= window // 2) if window else True
    seen = seen if ids is None else seen & (ids[:, None, :, None] == ids[:, None, None, :])
    weights = jnp.where(seen, jnp.exp(scores), 0)
    total = weights.sum(-1, keepdims=True) + (0 if sinks_H is None else jnp.exp(sinks_H)[:, None, None])
    return jnp.einsum("BHTS,BSHV->BTHV", weights / total, v, precision="highest")


def local_flash_attention(q_BTHK, k_BTGK, v_BTGV, ids_BT, sinks_H, *, causal, window, softcap, scale) -> jax.Array:
    """The same on one device's own rows and heads."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    T, K = q_BTHK.shape[1], q_BTHK.shape[3]
    scale = 1 / math.sqrt(K) if scale is None else scale
    q_BTHK = (q_BTHK.astype(jnp.float32) * scale).astype(q_BTHK.dtype)
    missing = -T % LANES
    if missing:
        q_BTHK, k_BTGK, v_BTGV = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in (q_BTHK, k_BTGK, v_BTGV))
        if ids_BT is None and not causal:
            ids_BT = jnp.zeros((q_BTHK.shape[0], T), jnp.int32)
        if ids_BT is not None:  # a document of its own; without ids causality hides it
            ids_BT = jnp.pad(ids_BT, ((0, 0), (0, missing)), constant_values=-1)
    tiles = flash_tiles(T + missing, K)
    kernel = splash.make_splash_mha(
        _mask(T + missing, q_BTHK.shape[2], causal, window),
        block_sizes=splash.BlockSizes(
            block_q=tiles.queries,
            block_kv=tiles.keys,
            block_q_dkv=tiles.backward_queries,
            block_kv_dkv=tiles.backward_keys,
            block_q_dq=tiles.backward_queries,
            block_kv_dq=tiles.backward_keys,
        ),
        attn_logits_soft_cap=softcap or None,
        head_shards=1,
        q_seq_shards=1,
        interpret=is_interpreting(),
    )

    def row(q, k, v, ids):
        return kernel(q, k, v, None if ids is None else splash.SegmentIds(ids, ids), sinks_H)

    heads_first = lambda x: jnp.swapaxes(x, 1, 2)  # noqa: E731
    reach = _reach(T + missing, causal, window)
    with stated_operations(_operations(q_BTHK.shape, v_BTGV.shape[-1], reach, tiles)):
        out_BHTV = jax.vmap(row)(heads_first(q_BTHK), heads_first(k_BTGK), heads_first(v_BTGV), ids_BT)
    return heads_first(out_BHTV)[:, :T]


def _mask(length: int, heads: int, causal: bool, window: int):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    square = (length, length)
    if window:
        mask = masks.LocalMask(square, _reach(length, causal, window), offset=0)
    else:
        mask = masks.CausalMask(square) if causal else masks.FullMask(square)
    return masks.MultiHeadMask([mask] * heads)


def _reach(length: int, causal: bool, window: int) -> tuple[int, int]:
    """How many keys before its own and after it a query sees."""
    if not window:
        return length, 0 if causal else length
    return (window - 1, 0) if causal else (window // 2, window // 2)


def _operations(shape_BTHK: tuple[int, ...], V: int, reach: tuple[int, int], tiles: FlashTiles) -> dict[str, int]:
    """Of each of the three kernels: its products over every tile in which any query sees any key."""
    B, T, H, K = shape_BTHK
    forward = B * H * _pairs(T, reach, tiles.queries, tiles.keys)
    backward = B * H * _pairs(T, reach, tiles.backward_queries, tiles.backward_keys)
    return {
        "fwd": forward * 2 * (K + V),  # scores, mixtures
        "dq": backward * 2 * (K + V + K),  # scores again, gradients of weights, of queries
        "dkv": backward * 2 * (K + V + V + K),  # scores again, gradients of weights, of values, of keys
    }


def _pairs(length: int, reach: tuple[int, int], queries: int, keys: int) -> int:
    """Pairs of a query and a key in the tiles of this size that are computed."""
    before, after = reach
    first_query, first_key = np.arange(0, length, queries)[:, None], np.arange(0, length, keys)
    nearest, farthest = first_query - (first_key + keys - 1), first_query + queries - 1 - first_key
    return int(((nearest <= before) & (farthest >= -after)).sum()) * queries * keys
