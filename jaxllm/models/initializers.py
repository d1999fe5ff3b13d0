"""How the weights of a decoder start: the policy that `ModelConfig.init_std` and `.residual_init` name."""

from __future__ import annotations

import math

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Initializer, normal, zeros


def out_of_stream(config: ModelConfig, fan_in: int) -> Initializer:
    """For matrices that read the residual stream."""
    return normal(config.init_std or 1 / math.sqrt(fan_in))


def into_stream(config: ModelConfig, fan_in: int) -> Initializer:
    """For matrices that write to the residual stream, two in each of `num_layers` blocks.

    The factor 1/sqrt(2 L) keeps the variance of the sum of all branches independent of depth (GPT-2, Radford et al.
    2019, 2.3).
    """
    if config.residual_init == "zero":
        return zeros
    return normal((config.init_std or 1 / math.sqrt(fan_in)) / math.sqrt(2 * config.num_layers))


def table(config: ModelConfig) -> Initializer:
    """For tables of tokens and positions, which are looked up rather than multiplied: their fan-in is one row."""
    return normal(config.init_std or 1 / math.sqrt(config.d_model))
