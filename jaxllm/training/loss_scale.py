"""Dynamic loss scaling for float16, whose smallest gradients would be zero and whose largest infinite.

The loss is multiplied by a scale before it is differentiated, the gradients are divided by it afterwards (Micikevicius
et al. 2018, section 3.2). A step whose gradients overflow is left out, and the next one takes a smaller scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct


@dataclass(frozen=True)
class LossScaleConfig:
    """How the scale follows the gradients; it is used with model.compute_dtype=float16 only."""

    initial: float = 32768.0
    """The first scale."""
    growth: float = 2.0
    """Factor of the scale after `growth_interval` steps without overflow."""
    growth_interval: int = 1000
    """Steps without overflow before the scale grows."""
    backoff: float = 0.5
    """Factor of the scale after an overflow."""
    smallest: float = 1.0
    """The scale falls no further: overflow at this scale counts as a bad step."""

    def __post_init__(self):
        if self.growth_interval < 1 or not 0 < self.smallest <= self.initial:
            raise ValueError(
                "precision.loss_scale: growth_interval must be at least 1, smallest above 0 and at most initial, got "
                f"growth_interval={self.growth_interval}, smallest={self.smallest}, initial={self.initial}"
            )
        if not 0 < self.backoff < 1 <= self.growth:
            raise ValueError(
                "precision.loss_scale: backoff must be in (0, 1) and growth at least 1, got "
                f"{self.backoff} and {self.growth}"
            )


@struct.dataclass
class LossScale:
    scale: jax.Array  # float32
    good_steps: jax.Array  # int32: steps without overflow since the scale last changed


def initial_loss_scale(config: LossScaleConfig) -> LossScale:
    return LossScale(jnp.float32(config.initial), jnp.zeros((), jnp.int32))


def follow(state: LossScale, finite: jax.Array, config: LossScaleConfig) -> LossScale:
    """The scale for the step after one whose gradients were finite or not."""
    good = jnp.where(finite, state.good_steps + 1, 0)
    grows = good >= config.growth_interval
    factor = jnp.where(finite, jnp.where(grows, config.growth, 1.0), config.backoff)
    scale = jnp.clip(state.scale * factor, config.smallest, jnp.finfo(jnp.float32).max / config.growth)
    return LossScale(scale, jnp.where(grows, 0, good))
