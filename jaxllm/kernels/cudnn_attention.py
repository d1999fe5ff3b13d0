"""Flash attention on NVIDIA GPUs: cuDNN's fused kernels, through JAX.

Packed documents go one of two ways. As a mask: an addend of batch x length x length in the type of the activations,
and as much again for its gradient, which cuDNN computes unasked; any pattern can be had so, with a quadratic memory
that is 2 / heads of the scores'. Or ragged: cuDNN is told where documents begin and how long they are, and computes
nothing in between; memory is linear in the length, but the softmax statistics have room for `documents` documents a
row, and it needs a Hopper GPU or a later one.

Shape letters: B batch, T time, H query heads, G key/value heads, K head width, M documents of a row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.kernels.documents import starts_and_lengths


def cudnn_attention(
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    ids_BT: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
    documents: int = 0,
    implementation: str = "cudnn",
) -> jax.Array:
    """What `reference_flash_attention` (without a cap and sinks) computes, [B, T, H, K], in the type of `q`, bfloat16
    or float16.

    Tokens of one id lie side by side in a row. With `documents` the ragged form is used where causality and window
    allow; rows with more runs of ids come out as NaN, which no loss survives unnoticed. `implementation="xla"` computes
    the same call, other than the ragged one, anywhere.
    """
    T = q_BTHK.shape[1]
    if ids_BT is not None and documents and (causal or not window):
        return _ragged(q_BTHK, k_BTGK, v_BTGK, ids_BT, causal, window, scale, max(documents, 2))
    arguments = {"scale": scale, "is_causal": causal, "implementation": implementation}
    if ids_BT is None and (causal or not window):
        reach = (window - 1, 0) if window else None
        return jax.nn.dot_product_attention(q_BTHK, k_BTGK, v_BTGK, local_window_size=reach, **arguments)
    if T % 2:  # cuDNN masks an even number of tokens only, so there is one more, a document of its own
        ids_BT = jnp.zeros(q_BTHK.shape[:2], jnp.int32) if ids_BT is None else ids_BT
        longer = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q_BTHK, k_BTGK, v_BTGK))
        ids_BT = jnp.pad(ids_BT, ((0, 0), (0, 1)), constant_values=-1)
        seen = {"causal": causal, "window": window, "scale": scale}
        return cudnn_attention(*longer, ids_BT, implementation=implementation, **seen)[:, :T]
    mask_BTT = jnp.ones((1, T, T), bool) if ids_BT is None else ids_BT[:, :, None] == ids_BT[:, None, :]
    if window:
        back_TT = jnp.arange(T)[:, None] - jnp.arange(T)
        mask_BTT &= (back_TT < window) if causal else (jnp.abs(back_TT) <= window // 2)
    return jax.nn.dot_product_attention(q_BTHK, k_BTGK, v_BTGK, mask=mask_BTT[:, None], **arguments)


def _ragged(q_BTHK, k_BTGK, v_BTGK, ids_BT, causal, window, scale, most):
    """JAX has this form below its public surface only."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    # JAX before its pull request 39521 (July 2026) steps through keys as if there were as many heads of them as of
    # queries, so there have to be. It costs a copy of keys and values.
    repeats = q_BTHK.shape[2] // k_BTGK.shape[2]
    k_BTHK, v_BTHK = (jnp.repeat(x, repeats, axis=2) for x in (k_BTGK, v_BTGK))
    start_BM, length_BM, fits_B = starts_and_lengths(ids_BT, most)
    # One more offset is expected than there are documents.
    offsets = jnp.pad(start_BM, ((0, 0), (0, 1)), constant_values=-1)
    out_BTHK = cudnn.dot_product_attention(
        q_BTHK,
        k_BTHK,
        v_BTHK,
        q_seqlen=length_BM,
        kv_seqlen=length_BM,
        q_offsets=offsets,
        kv_offsets=offsets,
        scale=q_BTHK.shape[-1] ** -0.5 if scale is None else scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL if causal else cudnn.MaskType.PADDING,
        sliding_window_length=window or None,
    )
    return jnp.where(fits_B[:, None, None, None], out_BTHK, jnp.nan).astype(q_BTHK.dtype)
