"""The cross-entropy of a model's logits, made from the residual stream as `models.unembed` makes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models import ModelConfig, output_head
from jaxllm.models.decoder import Decoder
from jaxllm.models.mup import logit_multiplier
from jaxllm.objectives.cross_entropy import cross_entropy


def head_terms(params: Decoder, config: ModelConfig) -> dict[str, Any]:
    """The arguments of `cross_entropy` that make its logits those of `models.unembed`."""
    return {
        "head_VD": output_head(params),
        "bias_V": params.head_bias,
        "scale": config.head.scale * logit_multiplier(config),
        "softcap": config.head.softcap,
    }


def mean_cross_entropy(
    params: Decoder,
    config: ModelConfig,
    x_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted mean of the negative log-likelihood in nats plus the z-loss, and `nll`, `accuracy`, `weight`."""
    total, sums = cross_entropy(
        x_BTD, targets_BT=targets_BT, weights_BT=weights_BT, z_loss=z_loss, **head_terms(params, config)
    )
    weight = weights_BT.sum()
    # A microbatch of padding alone has no mean; it counts for nothing.
    divisor = jnp.maximum(weight, 1.0)
    return total / divisor, {"nll": sums.nll / divisor, "accuracy": sums.correct / divisor, "weight": weight}
