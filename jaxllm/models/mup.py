"""Maximal update parametrization: what must change with size so that hyperparameters need not.

Of a model m times as wide and l times as deep as the one that its hyperparameters were tuned at (Adam's column):

                    initial deviation   learning rate            factor
    tables, head    as it was           as it was                logits / m
    hidden matrix   / sqrt(m)           / m       x l^(a-1)      branches x l^-a
    norms, biases   as it was           as it was x l^(a-1)

Weight decay per step stays as it was, but for l^(a-1) in layers; epsilon shrinks as the gradients do, by m, and in
layers by l^a. `m` is the ratio of d_model; all other widths (d_ff, heads, states) are expected to grow with it. Heads
should grow in number: where they grow in width instead, set attention.scale = sqrt(base head_dim) / head_dim, since
queries and keys become aligned and their product grows with the width, not with its root.

Sources: µP, Yang et al. 2022 (arXiv 2203.03466), table 8 and its definition 4.1 for attention; a = 1: CompleteP, Dey et
al. 2025 (arXiv 2505.01618), table 1.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Param, Spec


def width_ratio(config: ModelConfig) -> float:
    """How many times wider than the model that the hyperparameters were tuned for; 1 without µP."""
    return config.d_model / config.mup.base_width if config.mup else 1.0


def depth_ratio(config: ModelConfig) -> float:
    """How many times deeper; 1 where depth does not scale."""
    return config.num_layers / config.mup.base_depth if config.mup and config.mup.base_depth else 1.0


def branch_multiplier(config: ModelConfig) -> float:
    """Factor of every residual branch."""
    return depth_ratio(config) ** -config.mup.depth_alpha if config.mup else 1.0


def logit_multiplier(config: ModelConfig) -> float:
    """Factor of the logits."""
    return 1 / width_ratio(config)


def width_multipliers(config: ModelConfig, spec: Spec, power: float = -1.0) -> Any:
    """Factor of each parameter's learning rate for the model's width: `m ** power` for hidden matrices, 1 for all else.

    The power is -1 for updates whose elements have a size of their own (Adam, Lion), and -1/2 for orthogonal updates
    whose elements have that size (Muon scaled to Adam's): their largest singular value grows with the root of the width
    only.
    """
    factor = width_ratio(config) ** power
    return jax.tree.map(lambda p: factor if p.is_hidden_matrix else 1.0, spec)


def depth_multipliers(config: ModelConfig, spec: Spec) -> Any:
    """Factor of each parameter's learning rate, decay included, for the model's depth."""
    factor = depth_ratio(config) ** (config.mup.depth_alpha - 1) if config.mup else 1.0
    return jax.tree.map(lambda p: factor if _in_a_layer(p) else 1.0, spec)


def gradient_multipliers(config: ModelConfig, spec: Spec) -> Any:
    """What brings each parameter's gradient back to the size it has in the base model.

    To an update that does not depend on the gradient's size, this divides epsilon by as much.
    """
    in_layers = 1 / branch_multiplier(config)
    return jax.tree.map(lambda p: width_ratio(config) * (in_layers if _in_a_layer(p) else 1.0), spec)


def _in_a_layer(param: Param) -> bool:
    return "layers" in param.axes
