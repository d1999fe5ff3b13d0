"""The loss of modules that predict further tokens than the next.

Shape letters: B batch, T time, D model width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.models.decoder import Decoder, Hidden, Remat, token_rows
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.multi_token import run_modules
from jaxllm.objectives.cross_entropy import cross_entropy
from jaxllm.objectives.logits import head_terms
from jaxllm.parallel.text_order import in_placed_order, in_text_order

Batch = dict[str, jax.Array]


def shifted(array_BT: jax.Array, steps: int) -> jax.Array:
    """What stands `steps` places further on in the text of the row; zeros beyond its end."""
    return in_placed_order(jnp.pad(in_text_order(array_BT), ((0, 0), (0, steps)))[:, steps:])


def further_targets(batch: Batch, depth: int) -> tuple[jax.Array, jax.Array]:
    """Targets and weights of depth k, both [B, T]: token i+k+1 at position i. One that lies in another document weighs
    nothing."""
    segments, positions = batch["segment_ids"], batch["positions"]
    same = (segments > 0) & (shifted(segments, depth) == segments) & (shifted(positions, depth) == positions + depth)
    return shifted(batch["targets"], depth), jnp.where(same, shifted(batch["weights"], depth), 0.0)


def multi_token_terms(
    params: Decoder,
    config: ModelConfig,
    hidden: Hidden,
    batch: Batch,
    divisor: jax.Array,
    *,
    z_loss: float = 0.0,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> tuple[jax.Array, dict[str, Any], tuple[tuple[Statistics, ...], ...]]:
    """The mean of the losses of all depths, metrics, and the statistics of the modules' blocks.

    The loss of depth k is the sum over its targets divided by `divisor`, the weight of the next-token targets, of which
    there are more (DeepSeek-V3, equations 24 and 25, where both are T).
    """
    segments = batch["segment_ids"]
    context = Context(batch["positions"], segments, segments > 0)

    def embeddings(depth: int, _: jax.Array) -> jax.Array:
        rows_BTD = token_rows(params, config, shifted(batch["targets"], depth - 1))
        return rows_BTD * jnp.asarray(config.embedding.scale, rows_BTD.dtype)

    runs = run_modules(
        params.multi_token,
        config,
        hidden.x_BTD,
        hidden.stream_BTD,
        context,
        embeddings,
        dropout_key=dropout_key,
        remat=remat,
    )
    loss, metrics, statistics = jnp.zeros(()), {}, []
    for depth, (x_BTD, reported) in enumerate(runs, 1):
        targets, weights = further_targets(batch, depth)
        total, sums = cross_entropy(
            x_BTD, targets_BT=targets, weights_BT=weights, z_loss=z_loss, **head_terms(params, config)
        )
        loss += total / divisor
        metrics |= {
            f"multi_token_nll_{depth}": sums.nll / divisor,
            f"multi_token_accuracy_{depth}": sums.correct / divisor,
        }
        statistics.append(reported)
    return loss / len(params.multi_token), metrics, tuple(statistics)
