"""RMSNorm and LayerNorm, computed in float32 whatever the activations are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import NormConfig
from jaxllm.models.declare import Param, ones, zeros


@struct.dataclass
class Norm:
    scale: jax.Array | None
    bias: jax.Array | None


def norm_spec(config: NormConfig, width: int, axis: str = "residual") -> Norm:
    return Norm(
        scale=Param((width,), (axis,), zeros if config.unit_offset else ones) if config.scale else None,
        bias=Param((width,), (axis,), zeros) if config.bias else None,
    )


def normalize(p: Norm, config: NormConfig, x: jax.Array) -> jax.Array:
    """Normalize the last axis of `x`; same shape and type out.

    Sources: layer normalization, Ba et al. 2016; RMSNorm, Zhang and Sennrich 2019, equation 4.
    """
    y = x.astype(jnp.float32)
    if config.kind == "layernorm":
        y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + config.epsilon)
    if p.scale is not None:
        scale = p.scale.astype(jnp.float32)
        y = y * (scale + 1 if config.unit_offset else scale)
    if p.bias is not None:
        y = y + p.bias.astype(jnp.float32)
    return y.astype(x.dtype)
