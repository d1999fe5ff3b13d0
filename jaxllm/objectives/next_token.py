"""Pretraining: predict the next token, and further ones where the model has modules for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models import ModelConfig, hidden_states
from jaxllm.models.decoder import Decoder, Hidden, Remat
from jaxllm.models.layer import Statistics
from jaxllm.objectives.logits import mean_cross_entropy
from jaxllm.objectives.multi_token import multi_token_terms
from jaxllm.objectives.routing import router_terms

Batch = dict[str, jax.Array]
Metrics = dict[str, Any]
Objective = Callable[[Decoder, Batch, jax.Array | None], tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class Scheduled:
    """An objective that changes in the course of training: `at(step)` is the one of a step. Called like an objective,
    it is the first."""

    at: Callable[[jax.Array | int], Objective]

    def __call__(self, params: Decoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        return self.at(0)(params, batch, key)


@dataclass(frozen=True, eq=False)
class NextToken:
    """The objective of `next_token`; its fields are that function's arguments."""

    config: ModelConfig
    z_loss: float = 0.0
    remat: Remat = "none"
    multi_token_weight: float | jax.Array = 0.3

    def __call__(self, params: Decoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        hidden = hidden_states(
            params,
            self.config,
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            dropout_key=key,
            remat=self.remat,
        )
        loss, metrics, statistics = self.of_hidden(params, hidden, batch, key)
        router_loss, router_metrics = router_terms(statistics, (batch["segment_ids"] > 0).sum(), metrics["weight"])
        return loss + router_loss if router_metrics else loss, metrics | router_metrics

    def of_hidden(
        self, params: Decoder, hidden: Hidden, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, Metrics, tuple[tuple[Statistics, ...], ...]]:
        """What follows from what the layers made of a batch: the loss but for router losses, metrics, and the
        statistics of all layers, those of the multi-token modules included."""
        loss, metrics = mean_cross_entropy(
            params, self.config, hidden.x_BTD, batch["targets"], batch["weights"], z_loss=self.z_loss
        )
        if params.multi_token is None:
            return loss, metrics, hidden.statistics
        divisor = jnp.maximum(metrics["weight"], 1.0)
        settings = {"z_loss": self.z_loss, "dropout_key": key, "remat": self.remat}
        further, further_metrics, statistics = multi_token_terms(
            params, self.config, hidden, batch, divisor, **settings
        )
        loss = loss + self.multi_token_weight * further
        return loss, metrics | further_metrics, hidden.statistics + statistics


def next_token(
    config: ModelConfig,
    *,
    z_loss: float = 0.0,
    remat: Remat = "none",
    multi_token_weight: float | jax.Array = 0.3,
) -> NextToken:
    """The mean negative log-likelihood in nats of the weighted targets of a packed batch, plus the z-loss, the router
    losses of mixtures of experts, and `multi_token_weight` times the mean loss of the multi-token modules.

    The batch holds `tokens, targets, weights, segment_ids, positions`, each [B, T]. `metrics["weight"]` is the sum of
    the weights that the means are over: the step averages microbatches by it, which makes accumulation equal to one
    large batch, but for router losses, which are of a microbatch. A key turns dropout on. `metrics["load"]`, of
    mixtures of experts, is for `settle_routing`.
    """
    return NextToken(config, z_loss, remat, multi_token_weight)


def switched(first: float, last: float, at_step: int) -> Callable[[jax.Array | int], jax.Array]:
    """A weight that is `first` before a step and `last` from it on (DeepSeek-V3, section 4.2: 0.3, then 0.1)."""
    return lambda step: jnp.where(step < at_step, first, last)
