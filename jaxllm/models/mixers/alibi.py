"""Attention with linear biases (Press et al. 2022): a score falls with the distance, at a slope of its head's own.

Shape letters: B batch, T query time, S key time, H heads.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slope of each head, [H] in float32.

    2^(-8 i / H) for i from 1, where H is a power of two. Otherwise those of the largest power of two below, followed by
    every other one of the next power of two, as the authors published it.
    """
    power = 1 << (num_heads.bit_length() - 1)
    whole = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * (num_heads - power), 2) / power)
    return np.concatenate([whole, between]).astype(np.float32)


def alibi_bias(query_positions: jax.Array, key_positions: jax.Array, num_heads: int) -> jax.Array:
    """What is added to the scores, [B, H, T, S] in float32 (B may be 1): minus the slope times the distance."""
    distance_BTS = jnp.abs(query_positions[:, :, None] - key_positions[:, None, :])
    return -alibi_slopes(num_heads)[None, :, None, None] * distance_BTS[:, None].astype(jnp.float32)
