"""A short convolution along time, each channel for itself, that sees no later position and no other document.

Shape letters: B batch, T time, W width of the convolution. Channels are any number of further axes.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.declare import Initializer, Param, zeros
from jaxllm.models.layer import Context


@struct.dataclass
class CausalConvolution:
    weight: jax.Array  # [W, *channels]; the last row is the current position's
    bias: jax.Array | None


def convolution_spec(
    width: int, channels: tuple[int, ...], axes: tuple[str, ...], *, bias: bool
) -> CausalConvolution | None:
    """The declarations; None for a width of 0, which means no convolution."""
    if not width:
        return None
    return CausalConvolution(
        weight=Param((width, *channels), ("conv", *axes), _uniform(1 / math.sqrt(width))),
        bias=Param(channels, axes, zeros) if bias else None,
    )


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def empty_history(batch: int, width: int, channels: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array | None:
    """The W - 1 inputs before the first one: zeros. None where a width of 0 or 1 needs none."""
    return jnp.zeros((batch, width - 1, *channels), dtype) if width > 1 else None


def causal_convolution(
    p: CausalConvolution,
    x_BT: jax.Array,
    starts_BT: jax.Array | None,
    history_BW: jax.Array | None,
) -> jax.Array:
    """`y_t = bias + sum over lags j < W of weight[W - 1 - j] * x_(t-j)`, summed in float32; shape and type of `x_BT`.

    `x_BT` is [B, T, *channels]. `history_BW` are the W - 1 inputs before it, None for zeros. Inputs from before the
    last of `starts_BT` (bool [B, T], see `document_starts`) do not count.
    """
    T, W = x_BT.shape[1], p.weight.shape[0]
    padded = _with_history(x_BT, history_BW, W - 1)
    y_BT = 0.0 if p.bias is None else p.bias.astype(jnp.float32)
    reach_BT = None if starts_BT is None else _reach(starts_BT, W)
    for lag in range(W):
        term = padded[:, W - 1 - lag : W - 1 - lag + T].astype(jnp.float32) * p.weight[W - 1 - lag].astype(jnp.float32)
        if lag and reach_BT is not None:
            term = jnp.where((reach_BT >= lag).reshape(*reach_BT.shape, *[1] * (x_BT.ndim - 2)), term, 0)
        y_BT = y_BT + term
    return y_BT.astype(x_BT.dtype)


def previous_token(x_BTD: jax.Array, starts_BT: jax.Array | None, history_B1D: jax.Array | None) -> jax.Array:
    """The vector before each position, zeros at the beginning of a document (the token shift of RWKV)."""
    shifted_BTD = _with_history(x_BTD, history_B1D, 1)[:, :-1]
    return shifted_BTD if starts_BT is None else jnp.where(starts_BT[..., None], 0, shifted_BTD)


def new_history(x_BT: jax.Array, history_BW: jax.Array | None, context: Context) -> jax.Array | None:
    """The last W - 1 inputs of each row, padding on the right left out."""
    if history_BW is None:
        return None
    kept, T = history_BW.shape[1], x_BT.shape[1]
    padded = _with_history(x_BT, history_BW, kept)
    if context.valid_BT is None:
        return padded[:, T:].astype(history_BW.dtype)
    window = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, kept)  # noqa: E731
    count_B = context.valid_BT.sum(1, dtype=jnp.int32)
    return jax.vmap(window)(padded, count_B).astype(history_BW.dtype)


def reference_causal_convolution(p: CausalConvolution, x_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """The slow twin, from the definition: position by position, lag by lag."""
    B, T, W = *x_BT.shape[:2], p.weight.shape[0]
    y_BT = jnp.zeros(x_BT.shape, jnp.float32) + (0 if p.bias is None else p.bias)
    for b in range(B):
        for t in range(T):
            for lag in range(min(W, t + 1)):
                if segment_ids_BT[b, t - lag] == segment_ids_BT[b, t]:
                    y_BT = y_BT.at[b, t].add(p.weight[W - 1 - lag] * x_BT[b, t - lag])
    return y_BT


def _with_history(x_BT: jax.Array, history_BW: jax.Array | None, count: int) -> jax.Array:
    if history_BW is None:
        return jnp.pad(x_BT, ((0, 0), (count, 0), *[(0, 0)] * (x_BT.ndim - 2)))
    return jnp.concatenate([history_BW.astype(x_BT.dtype), x_BT], axis=1)


def _reach(starts_BT: jax.Array, width: int) -> jax.Array:
    """How many positions each one can look back within its document, [B, T]; at least `width` where none has begun."""
    index_T = jnp.arange(starts_BT.shape[1], dtype=jnp.int32)
    return index_T - jax.lax.cummax(jnp.where(starts_BT, index_T, -width), axis=1)
