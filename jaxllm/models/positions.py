"""Absolute positions without parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sines at even units and cosines at odd ones, [B, T, width] in float32 (Vaswani et al. 2017, section 3.5)."""
    frequencies = 10_000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions_BT.shape, -1)[..., :width]
