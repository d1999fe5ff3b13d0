"""Loss, metrics and gradients of a whole batch: one microbatch after another, or through a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.models.config.remat import parse_remat
from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Batch, Metrics, NextToken, Objective, Scheduled
from jaxllm.objectives.staged import StagedNextToken, cut_segment, staged_spec
from jaxllm.parallel.pipeline import PipelineConfig, instructions, run_pipeline
from jaxllm.parallel.sharding import Layout, constrain_gradients
from jaxllm.quantize.low_precision import Histories
from jaxllm.training.precision import FULL, Precision
from jaxllm.training.stochastic_rounding import widened

Weights = tuple[Any, Histories | None]
"""The parameters, and what products in low precision remember of the steps before."""
Gradients = Callable[
    [Weights, Batch, jax.Array | None, jax.Array, jax.Array | None], tuple[jax.Array, Metrics, tuple[Any, Any]]
]
"""(weights, batch, dropout key or None, step, scale of the loss or None) -> (loss, metrics, (gradients, magnitudes that
the products saw))"""


PIPELINE_GOES_WITH = ("data", "fsdp", "tensor", "pipeline")


def accumulated(
    objective: Objective, microbatches: int, *, spec: Spec | None = None, precision: Precision = FULL
) -> Gradients:
    """The weighted mean over microbatches, one after another, and the largest of what they observed; sums are in
    float32. With the parameters' declarations in `spec`, gradients lie where the layout's tables say (ZeRO)."""

    def gradients(weights: Weights, batch: Batch, key: jax.Array | None, step: jax.Array, scale: jax.Array | None):
        current = precision.objective(_at(objective, step))

        def enlarged(weights, batch, key):
            loss, metrics = current(weights, batch, key)
            return loss if scale is None else loss * scale, (loss, metrics)

        def differentiate(batch, key):
            (_, (loss, metrics)), (grads, observed) = jax.value_and_grad(enlarged, has_aux=True)(weights, batch, key)
            grads = widened(grads if spec is None else constrain_gradients(spec, grads))
            return loss, metrics, grads if scale is None else scaled(grads, 1 / scale), observed

        if microbatches == 1:
            loss, metrics, grads, observed = differentiate(batch, key)
            return loss, metrics, (grads, observed)

        def add(total, microbatch):
            index, rows = microbatch
            rows_key = None if key is None else jax.random.fold_in(key, index)
            loss, metrics, grads, observed = differentiate(rows, rows_key)
            weight = metrics["weight"]
            weighted = scaled((loss, {**metrics, "weight": jnp.ones_like(weight)}, grads), weight)
            sums = jax.tree.map(jnp.add, total[0], weighted)
            return (sums, jax.tree.map(jnp.maximum, total[1], observed)), None

        split = split_rows(batch, microbatches)
        first = jax.tree.map(lambda x: x[0], split)
        *sums, observed = jax.eval_shape(differentiate, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (tuple(sums), observed))
        (sums, observed), _ = jax.lax.scan(add, zeros, (jnp.arange(microbatches), split))
        weight = sums[1]["weight"]
        loss, means, grads = scaled(sums, 1 / jnp.maximum(weight, 1.0))
        return loss, {**means, "weight": weight}, (grads, observed)

    return gradients


def pipelined(
    objective: Objective,
    microbatches: int,
    config: PipelineConfig,
    layout: Layout,
    *,
    spec: Spec | None = None,
    precision: Precision = FULL,
) -> Gradients:
    """The same through a pipeline over the mesh axis of that name, in the order of a schedule.

    Raises ValueError for an objective that is not cut into stages, for counts that the schedule does not work with, for
    a model that its stages don't divide, and for a mesh with axes that a pipeline does not go with.
    """
    ranks = layout.mesh.shape["pipeline"]
    others = [name for name, size in layout.mesh.shape.items() if size > 1 and name not in PIPELINE_GOES_WITH]
    if others:
        raise ValueError(
            f"mesh.pipeline={ranks} does not go together with {', '.join(f'mesh.{name}' for name in others)}: ranks "
            f"that do different work at a time could not exchange anything but sums over them. Set one of them to 1"
        )
    if not isinstance(_at(objective, jnp.int32(0)), NextToken):
        raise ValueError(
            f"a pipeline trains with the next-token objective only, not with {objective}: set mesh.pipeline=1"
        )
    program = instructions(config.build(ranks, microbatches))
    stages = program.schedule.stages

    if len(parse_remat(_at(objective, jnp.int32(0)).remat)) > 1:
        raise ValueError(
            "a pipeline goes together with one remat policy for all layers, for its ranks run one program: set "
            "training.remat to a single policy, or mesh.pipeline=1"
        )
    if precision.scaled_loss or precision.config.products.kind != "none":
        raise ValueError(
            "a pipeline goes together neither with model.compute_dtype=float16 nor with precision.products: compute in "
            "bfloat16, or set mesh.pipeline=1"
        )

    def gradients(weights: Weights, batch: Batch, key: jax.Array | None, step: jax.Array, scale: jax.Array | None):
        (params, _), current = weights, _at(objective, step)
        staged = StagedNextToken(current, cut_segment(current.config, ranks, stages), stages)
        split: dict[str, Any] = split_rows(batch, microbatches)
        weight_M = split["weights"].sum((1, 2))
        weight = weight_M.sum()
        keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(microbatches))
        further_M = jnp.full((microbatches,), current.multi_token_weight)
        split |= {"key": keys, "multi_token_weight": further_M}
        layers, ends = staged.split(params)
        shares_M = weight_M / jnp.maximum(weight, 1.0)
        totals, layers_bar = run_pipeline(staged.model(), program, layout, layers, ends, split, shares_M)
        grads = staged.join(layers_bar, totals.ends_bar)
        grads = widened(grads if spec is None else constrain_gradients(spec, grads))
        return totals.loss, staged.metrics(totals, weight), (grads, None)

    return gradients


def laid_out(spec: Spec, model: ModelConfig, config: PipelineConfig, microbatches: int, layout: Layout) -> Spec:
    """The declarations as a layout wants them: with a pipeline, its layers are split over the ranks. Raises ValueError
    as `pipelined` does."""
    ranks = layout.mesh.shape["pipeline"]
    if ranks == 1:
        return spec
    return staged_spec(spec, model, ranks, config.build(ranks, microbatches).stages)


def split_rows(batch: Batch, microbatches: int) -> Batch:
    """[B, ...] to [n, B / n, ...] for n microbatches. Row r goes to microbatch r mod n, so that each device finds its
    part of every microbatch among its own rows."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch)


def scaled(tree: Any, factor: jax.Array) -> Any:
    """Every leaf times a number, in its own type."""
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), tree)


def _at(objective: Objective, step: jax.Array) -> Objective:
    return objective.at(step) if isinstance(objective, Scheduled) else objective
