"""Pretraining: predict the next token."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxllm.models import ModelConfig, hidden_states, output_head
from jaxllm.models.decoder import Decoder, Remat
from jaxllm.objectives.cross_entropy import cross_entropy

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Objective = Callable[[Decoder, Batch, jax.Array | None], tuple[jax.Array, Metrics]]


def next_token(config: ModelConfig, *, z_loss: float = 0.0, remat: Remat = "none") -> Objective:
    """The mean negative log-likelihood in nats of the weighted targets of a packed batch, plus the z-loss.

    The batch holds `tokens, targets, weights, segment_ids, positions`, each [B, T]. `metrics["weight"]` is the sum of
    the weights that the means are over: the step averages microbatches by it, which makes accumulation equal to one
    large batch. A key turns dropout on.
    """

    def objective(params: Decoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        hidden = hidden_states(
            params,
            config,
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            dropout_key=key,
            remat=remat,
        )
        total, sums = cross_entropy(
            hidden.x_BTD, output_head(params), batch["targets"], batch["weights"], z_loss=z_loss
        )
        weight = batch["weights"].sum()
        # A microbatch of padding alone has no mean; it counts for nothing.
        divisor = jnp.maximum(weight, 1.0)
        metrics = {"nll": sums.nll / divisor, "accuracy": sums.correct / divisor, "weight": weight}
        return total / divisor, metrics

    return objective
