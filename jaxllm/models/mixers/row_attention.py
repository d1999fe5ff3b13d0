"""Softmax attention among the tokens of whole rows, as in training: the one place that knows how rows lie on devices.

Shape letters: B batch, T time, H query heads, G key/value heads, K width of queries and keys, V width of values.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.kernels import visibility
from jaxllm.kernels.blockwise_attention import blockwise_attention
from jaxllm.kernels.choice import AttentionCase, choose_attention
from jaxllm.kernels.config import KernelConfig
from jaxllm.kernels.context_attention import context_attention
from jaxllm.kernels.cudnn_attention import cudnn_attention
from jaxllm.kernels.documents import run_numbers
from jaxllm.kernels.flash_attention import flash_attention
from jaxllm.kernels.visibility import Places, Reach
from jaxllm.models.mixers.dot_product import dot_product_attention
from jaxllm.parallel.sharding import constrain, current_layout
from jaxllm.parallel.text_order import splits_text


def row_attention(
    kernels: KernelConfig,
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGV: jax.Array,
    places: Places,
    reach: Reach,
    *,
    bias: jax.Array | None = None,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """`dot_product_attention` of each token to those of its row that its place lets it see; [B, T, H, V].

    Computed by the kernel that the config names or the platform suggests. Flash and cuDNN take a document's tokens to
    lie side by side and in their order, as packing lays them. Raises ValueError for a bias on the scores where a row
    lies on several devices, and where the kernel that is asked for can't do what is asked of it.
    """
    layout = current_layout()
    case = AttentionCase(
        dtype=q_BTHK.dtype.name,
        key_width=q_BTHK.shape[-1],
        value_width=v_BTGV.shape[-1],
        reach=reach,
        softcap=softcap,
        sinks=sinks is not None,
        bias=bias is not None,
    )
    kernel = choose_attention(kernels.attention, case).kernel
    k_BTGK, v_BTGV = (_one_for_each_device(x) for x in (k_BTGK, v_BTGV))
    if splits_text(layout):
        if bias is not None:
            raise ValueError(
                "a bias on the attention scores (ALiBi, relative positions) has no form for mesh.context="
                f"{layout.ways('length')}: set --mesh.context=1"
            )
        more = {"softcap": softcap, "sinks": sinks, "scale": scale, "kernel": kernel}
        return context_attention(layout, q_BTHK, k_BTGK, v_BTGV, places, reach, **more)
    k_BSGK = constrain(k_BTGK, "batch", None, "act_heads", None)
    v_BSGV = constrain(v_BTGV, "batch", None, "act_heads", None)
    arrays, more = (q_BTHK, k_BSGK, v_BSGV), {"softcap": softcap, "scale": scale}
    if kernel == "plain":
        mask_BTS = visibility.visible(places, places, reach)
        return dot_product_attention(*arrays, mask_BTS, bias=bias, sinks=sinks, **more)
    if kernel == "blockwise":
        return blockwise_attention(*arrays, places, places, reach, sinks=sinks, **more)
    ids_BT = run_numbers(places.positions_BT, places.segment_ids_BT, reach.chunk)
    ids_BT = None if ids_BT is None else jnp.broadcast_to(ids_BT, q_BTHK.shape[:2])
    seen = {"causal": reach.causal, "window": reach.window}
    if kernel == "flash":
        return flash_attention(*arrays, ids_BT, sinks_H=sinks, **seen, **more)
    assert kernel == "cudnn", kernel
    return cudnn_attention(*arrays, ids_BT, scale=scale, documents=kernels.documents, **seen)


def _one_for_each_device(x_BTGK: jax.Array) -> jax.Array:
    """Key/value heads that are fewer than the devices which split query heads are repeated: each keeps its own."""
    layout = current_layout()
    ways, heads = (1, 1) if layout is None else (layout.ways("act_heads"), x_BTGK.shape[2])
    return jnp.repeat(x_BTGK, ways // heads, axis=2) if heads < ways and ways % heads == 0 else x_BTGK
