"""In which types a run keeps its parameters and optimizer state, and multiplies.

The compute type (activations, and weights inside products) is the model's own, `model.compute_dtype`. Parameters are
the master weights: float32 unless said otherwise, rounded to the compute type in each product, never in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.models.declare import Params, Spec
from jaxllm.objectives.next_token import Objective
from jaxllm.quantize.config import ProductConfig
from jaxllm.quantize.low_precision import Histories, empty_histories, in_low_precision
from jaxllm.training.loss_scale import LossScale, LossScaleConfig, initial_loss_scale

Stored = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PrecisionConfig:
    """Types beside the compute type, which is model.compute_dtype."""

    parameters: Stored = "float32"
    """Type that matrices are kept in between steps. bfloat16 has no float32 master copy: updates are computed in
    float32 and rounded by chance."""
    optimizer_state: Stored = "float32"
    """Type of the optimizer's moments of matrices; bfloat16 is rounded by chance too."""
    products: ProductConfig = ProductConfig()
    """Numbers that products with hidden weights are made in."""
    loss_scale: LossScaleConfig = LossScaleConfig()
    """Dynamic loss scaling, used with model.compute_dtype=float16."""


@dataclass(frozen=True)
class Precision:
    """A config made to fit a model's declarations."""

    config: PrecisionConfig = PrecisionConfig()
    spec: Spec = None
    scaled_loss: bool = False

    def store_params(self, params: Params) -> Params:
        """Initial parameters (arrays or abstract ones) in the types they are kept in."""
        if self.config.parameters == "float32":
            return params
        return jax.tree.map(lambda p, param: _in_bfloat16(p) if param.is_matrix else p, params, self.spec)

    def store_moments(self, opt_state: Any) -> Any:
        """The same for an optimizer's initial state: arrays with two axes or more, which is how matrices are seen."""
        if self.config.optimizer_state == "float32":
            return opt_state
        return jax.tree.map(lambda x: _in_bfloat16(x) if x.ndim > 1 and x.dtype == jnp.float32 else x, opt_state)

    def loss_scale(self) -> LossScale | None:
        return initial_loss_scale(self.config.loss_scale) if self.scaled_loss else None

    def histories(self) -> Histories | None:
        return empty_histories(self.spec, self.config.products)

    def objective(self, objective: Objective) -> Objective:
        """The objective over (parameters, histories), whose products are made as the config says."""

        def with_products(weights, batch, key=None):
            params, histories = weights
            return objective(in_low_precision(params, self.spec, self.config.products, histories), batch, key)

        return with_products


FULL = Precision()


def make_precision(config: PrecisionConfig, spec: Spec, compute_dtype: str) -> Precision:
    """Of a model with these declarations and this compute type."""
    return Precision(config, spec, scaled_loss=compute_dtype == "float16")


def _in_bfloat16(x: Any) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding)
    return x.astype(jnp.bfloat16)
