"""Maximal update parametrization: what must change with size so that hyperparameters need not.

Sources: µP, Yang et al. 2022, table 8; CompleteP, Dey et al. 2025, table 1.
"""

from __future__ import annotations

from jaxllm.models.config import ModelConfig


def width_ratio(config: ModelConfig) -> float:
    """How many times wider than the model that the hyperparameters were tuned for; 1 without µP."""
    return config.d_model / config.mup.base_width if config.mup else 1.0


def branch_multiplier(config: ModelConfig) -> float:
    """Factor of every residual branch."""
    if config.mup is None or not config.mup.base_depth:
        return 1.0
    return (config.num_layers / config.mup.base_depth) ** -config.mup.depth_alpha


def logit_multiplier(config: ModelConfig) -> float:
    """Factor of the logits."""
    return 1 / width_ratio(config)
