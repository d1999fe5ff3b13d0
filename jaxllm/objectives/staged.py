"""A decoder and its next-token loss, cut into the stages of a pipeline.

The segment with most layers is cut. What comes before it (embeddings, other segments) is done on the first stage, what
comes after it (other segments, norm, head, multi-token modules, loss) on the last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import Spec
from jaxllm.models.decoder import Decoder, Hidden, embed
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.norm import normalize
from jaxllm.models.segments import layer_keys, run_segment
from jaxllm.objectives.next_token import Batch, Metrics, NextToken
from jaxllm.objectives.routing import router_terms
from jaxllm.parallel.pipeline import StagedModel, Totals


def cut_segment(config: ModelConfig, ranks: int, stages: int) -> int:
    """Which segment of a model a pipeline cuts. Raises ValueError, saying what to change, unless it divides."""
    segments = config.segments()
    index = max(range(len(segments)), key=lambda i: segments[i].repeats * len(segments[i].blocks))
    repeats, blocks = segments[index].repeats, len(segments[index].blocks)
    if repeats % stages:
        others = config.num_layers - repeats * blocks
        what = f"{repeats} layers" if blocks == 1 else f"{repeats} repeats of a pattern of {blocks} layers"
        besides = f", beside {others} other layers that stay on the first and last" if others else ""
        nearest = [n for n in (repeats // stages * stages, -(-repeats // stages) * stages) if n]
        layers = " or ".join(str(n * blocks + others) for n in nearest)
        raise ValueError(
            f"a pipeline of {ranks} ranks with {stages} stages cannot share out {what} equally{besides}: every stage "
            f"must have the same blocks. Use model.num_layers={layers}, or another mesh.pipeline, or a schedule with "
            f"another number of stages for each rank (pipeline.schedule, pipeline.chunks)"
        )
    return index


def staged_spec(spec: Spec, config: ModelConfig, ranks: int, stages: int) -> Spec:
    """The declarations with the layers that a pipeline cuts on the logical axis `stages`, which the rules split over
    its ranks; all else is on every rank."""
    index = cut_segment(config, ranks, stages)
    rename = lambda param: replace(param, axes=("stages", *param.axes[1:]))  # noqa: E731
    segments = list(spec.segments)
    segments[index] = jax.tree.map(rename, segments[index])
    return replace(spec, segments=tuple(segments))


@dataclass(frozen=True)
class StagedNextToken:
    """The parts of a next-token objective for `stages` stages of its model's segment `index`."""

    objective: NextToken
    index: int
    stages: int

    @property
    def config(self) -> ModelConfig:
        return self.objective.config

    @property
    def segment(self) -> Segment:
        return self.config.segments()[self.index]

    def model(self) -> StagedModel:
        return StagedModel(self._first, self._middle, self._last)

    def split(self, params: Decoder) -> tuple[Any, Decoder]:
        """`(layers, ends)`: the parameters of the stages, [stage, layer, ...] for every leaf, and the others."""
        cut = lambda x: x.reshape(self.stages, -1, *x.shape[1:])  # noqa: E731
        layers = jax.tree.map(cut, params.segments[self.index])
        return layers, self._with_segment(params, ())

    def join(self, layers: Any, ends: Decoder) -> Decoder:
        """The inverse of `split`."""
        return self._with_segment(ends, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), layers))

    def metrics(self, totals: Totals, weight: jax.Array) -> Metrics:
        """What the objective reports, from what the stages reported."""
        middle = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), totals.middle)
        metrics, after = totals.last
        # Reports are of targets already, not of tokens, which is where `router_terms` would bring them.
        _, router_metrics = router_terms((*totals.first, middle, *after), jnp.ones(()), jnp.ones(()))
        return metrics | {"weight": weight} | router_metrics

    def _with_segment(self, params: Decoder, blocks: Any) -> Decoder:
        segments = list(params.segments)
        segments[self.index] = blocks
        return params.replace(segments=tuple(segments))

    # The three parts. A microbatch is a batch of the objective and `key`, for dropout, or None.

    def _first(self, ends: Decoder, batch: Batch):
        x_BTD = embed(ends, self.config, batch["tokens"], batch["positions"], dropout_key=batch["key"])
        x_BTD, statistics = self._run_others(ends, x_BTD, batch, range(self.index))
        return x_BTD, *_router_parts(statistics, batch)

    def _middle(self, blocks: Any, x_BTD: jax.Array, batch: Batch, stage: jax.Array):
        whole = self.segment
        layers = whole.repeats // self.stages
        keys_L = layer_keys(batch["key"], self.index, whole)
        if keys_L is not None:
            keys_L = jax.lax.dynamic_slice_in_dim(keys_L, stage * layers, layers)
        here = replace(whole, repeats=layers, first=whole.first + stage * layers * len(whole.blocks))
        x_BTD, (_, statistics) = run_segment(
            blocks, self.config, here, x_BTD, _context(batch), None, keys_L, self.objective.remat
        )
        loss, (report,) = _router_parts((statistics,), batch)
        return x_BTD, loss, report

    def _last(self, ends: Decoder, x_BTD: jax.Array, batch: Batch):
        after = range(self.index + 1, len(self.config.segments()))
        stream_BTD, statistics = self._run_others(ends, x_BTD, batch, after)
        x_BTD = stream_BTD if ends.norm is None else normalize(ends.norm, self.config.norm, stream_BTD)
        hidden = Hidden(x_BTD, stream_BTD, None, statistics)
        objective = replace(self.objective, multi_token_weight=batch["multi_token_weight"])
        loss, metrics, statistics = objective.of_hidden(ends, hidden, batch, batch["key"])
        router_loss, report = _router_parts(statistics, batch)
        del metrics["weight"]
        return loss + router_loss, (metrics, report)

    def _run_others(self, ends: Decoder, x_BTD: jax.Array, batch: Batch, indices: range):
        segments, reports = self.config.segments(), []
        for i in indices:
            keys_L = layer_keys(batch["key"], i, segments[i])
            x_BTD, (_, statistics) = run_segment(
                ends.segments[i], self.config, segments[i], x_BTD, _context(batch), None, keys_L, self.objective.remat
            )
            reports.append(statistics)
        return x_BTD, tuple(reports)


def _context(batch: Batch) -> Context:
    return Context(batch["positions"], batch["segment_ids"], batch["segment_ids"] > 0)


def _router_parts(statistics: tuple[tuple[Statistics, ...], ...], batch: Batch):
    """The sum of router losses, and of each block what `router_terms` reads, its load counted per target."""
    loss, _ = router_terms(statistics, jnp.ones(()), jnp.ones(()))
    scale = (batch["segment_ids"] > 0).sum() / jnp.maximum(batch["weights"].sum(), 1.0)

    def of_block(reported: Statistics) -> Statistics:
        if "load" not in reported:
            return {}
        return {name: reported[name] for name in ("router_loss", "dropped")} | {"load": reported["load"] * scale}

    return loss, tuple(tuple(of_block(reported) for reported in blocks) for blocks in statistics)
