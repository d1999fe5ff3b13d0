"""Relative positions as a learned bias on attention scores (T5, Raffel et al. 2020, section 2.1).

Shape letters: B batch, T query time, S key time, H heads, N buckets.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.config import RelativeBiasConfig
from jaxllm.models.declare import Param, normal


def relative_bias_spec(config: RelativeBiasConfig, heads: int, std: float) -> Param:
    """The declaration of the biases, [N, H]."""
    return Param((config.buckets, heads), ("position", "heads"), normal(std))


def relative_bias(
    table_NH: jax.Array, config: RelativeBiasConfig, query_positions_BT: jax.Array, key_positions_BS: jax.Array
) -> jax.Array:
    """What to add to the scores of softmax attention, [B, H, T, S] in float32; B may be 1."""
    far = config.max_distance
    buckets = [bucket(distance, config) for distance in range(-far, far + 1)]
    by_distance = table_NH.astype(jnp.float32)[np.array(buckets)]
    distance_BTS = key_positions_BS[:, None, :] - query_positions_BT[:, :, None]
    return jnp.moveaxis(by_distance[jnp.clip(distance_BTS, -far, far) + far], -1, 1)


def bucket(distance: int, config: RelativeBiasConfig) -> int:
    """The bucket of a key that stands `distance` after the query; before it where that is negative.

    Half of a direction's buckets hold one distance each; the others divide the logarithm of the distance evenly up to
    max_distance.
    """
    count, first = config.buckets, 0
    if config.bidirectional:
        count //= 2
        first = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(config.max_distance / exact)
    # Where the share falls on a bucket's edge, rounding must not put it below.
    return first + min(exact + int(share * (count - exact) + 1e-6), count - 1)
