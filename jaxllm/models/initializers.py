"""How the weights of a decoder start: the policy that `ModelConfig.init_std` and `.residual_init` name."""

from __future__ import annotations

import math

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Initializer, normal, zeros
from jaxllm.models.mup import width_ratio


def out_of_stream(config: ModelConfig, fan_in: int) -> Initializer:
    """For hidden matrices that read the residual stream."""
    return normal(_hidden_std(config, fan_in))


def into_stream(config: ModelConfig, fan_in: int) -> Initializer:
    """For matrices that write to the residual stream, two in each of `num_layers` blocks.

    The factor 1/sqrt(2 L) keeps the variance of the sum of all branches independent of depth (GPT-2, Radford et al.
    2019, 2.3). Where the branches have a multiplier that does so (CompleteP), L is the depth of the base model.
    """
    if config.residual_init == "zero":
        return zeros
    layers = config.mup.base_depth if config.mup and config.mup.base_depth else config.num_layers
    return normal(_hidden_std(config, fan_in) / math.sqrt(2 * layers))


def table(config: ModelConfig) -> Initializer:
    """For tables with a row for each token or position, the head among them; under µP alike at all widths."""
    width = config.mup.base_width if config.mup else config.d_model
    return normal(config.init_std or 1 / math.sqrt(width))


def _hidden_std(config: ModelConfig, fan_in: int) -> float:
    """A deviation that is named holds at µP's base width; 1/sqrt(fan-in) follows the width by itself."""
    return config.init_std / math.sqrt(width_ratio(config)) if config.init_std else 1 / math.sqrt(fan_in)
