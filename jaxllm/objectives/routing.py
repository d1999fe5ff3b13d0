"""What mixtures of experts add to a loss, and what follows from their loads after a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig, MoEConfig, Segment
from jaxllm.models.decoder import Decoder
from jaxllm.models.layer import Statistics

Metrics = dict[str, Any]
AfterUpdate = Callable[[Decoder, Decoder, Metrics], tuple[Decoder, Metrics]]


def router_terms(
    statistics: tuple[tuple[Statistics, ...], ...], tokens: jax.Array, weight: jax.Array
) -> tuple[jax.Array, Metrics]:
    """The sum of the router losses of all layers, and metrics; 0 and none of a model without mixtures of experts.

    `statistics` are those of `Hidden`. `metrics["load"]` is a list of arrays [L, E], one for each block with experts:
    assignments per counted target, so that the mean over microbatches which are weighted by their targets is that of
    the whole batch. `settle_routing` makes it a number.
    """
    reports = [report for blocks in statistics for report in blocks if "load" in report]
    if not reports:
        return jnp.zeros(()), {}
    loss = sum(report["router_loss"].sum() for report in reports)
    scale = tokens / jnp.maximum(weight, 1.0)
    metrics = {
        "router_loss": loss,
        "dropped": jnp.concatenate([report["dropped"] for report in reports]).mean(),
        "load": [report["load"] * scale for report in reports],
    }
    return loss, metrics


def settle_routing(config: ModelConfig) -> AfterUpdate | None:
    """What a training step does with the loads of a whole batch once it has made its update; None without experts.

    The function takes the parameters before and after the update and the metrics. The selection biases follow the load:
    `bias += rate * sign(mean load - load)` (Wang et al. 2024, algorithm 1), whatever the optimizer made of them. In the
    metrics `max_load`, the highest load of an expert next to the mean of its layer, takes the place of `load`.
    """
    places = _places(config)
    if not places:
        return None

    def settle(before: Decoder, after: Decoder, metrics: Metrics) -> tuple[Decoder, Metrics]:
        loads = metrics["load"]
        means = [jnp.maximum(load_LE.mean(-1, keepdims=True), 1e-20) for load_LE in loads]
        highest = [(load_LE / mean).max() for load_LE, mean in zip(loads, means, strict=True)]
        for (path, moe), load_LE, mean in zip(places, loads, means, strict=True):
            if moe.balance_rate >= 0:
                old = _blocks(before, path[0])[path[1]].channel.selection_bias
                # A load that is even but for rounding is even: else how a batch is summed would decide.
                error_LE = jnp.where(jnp.abs(mean - load_LE) < 1e-6 * mean, 0.0, mean - load_LE)
                after = _with_bias(after, path, old + moe.balance_rate * jnp.sign(error_LE))
        rest = {name: value for name, value in metrics.items() if name != "load"}
        return after, rest | {"max_load": jnp.stack(highest).max()}

    return settle


def _places(config: ModelConfig) -> list[tuple[tuple[tuple[str, int], int], MoEConfig]]:
    """Where the mixtures of experts are, in the order of the statistics: the segments, then the multi-token modules."""
    groups: list[tuple[tuple[str, int], Segment | Any]] = []
    for i, segment in enumerate(config.segments()):
        groups.append((("segments", i), segment.blocks))
    for i in range(config.multi_token.depth if config.multi_token else 0):
        groups.append((("multi_token", i), config.blocks()[-1:]))
    return [
        ((group, j), block.channel)
        for group, blocks in groups
        for j, block in enumerate(blocks)
        if isinstance(block.channel, MoEConfig)
    ]


def _blocks(params: Decoder, group: tuple[str, int]):
    kind, i = group
    return params.segments[i] if kind == "segments" else params.multi_token[i].blocks


def _with_bias(params: Decoder, path: tuple[tuple[str, int], int], bias_LE: jax.Array) -> Decoder:
    (kind, i), j = path
    blocks = list(_blocks(params, (kind, i)))
    blocks[j] = blocks[j].replace(channel=blocks[j].channel.replace(selection_bias=bias_LE))
    groups = list(getattr(params, kind))
    groups[i] = tuple(blocks) if kind == "segments" else groups[i].replace(blocks=tuple(blocks))
    return params.replace(**{kind: tuple(groups)})
