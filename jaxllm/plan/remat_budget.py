"""Which layers to compute again so that a step fits a memory budget at the least cost.

What a layer takes is measured: the temporary memory and the operations of the compiled gradient at two small depths
give a slope, per layer, and what is left, which no policy changes. All else is arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import abstract
from jaxllm.models.decoder import decoder_spec
from jaxllm.objectives.next_token import next_token
from jaxllm.plan.flops import forward_flops

CANDIDATES = ("none", "attention", "dots", "full")


@dataclass(frozen=True)
class LayerCost:
    """A policy's price for one layer."""

    policy: str
    kept: float
    """Bytes that live from its forward to its backward pass."""
    extra: float
    """FLOPs (or seconds: any one unit) beyond what a layer takes without recomputation."""


@dataclass(frozen=True)
class RematPlan:
    remat: str
    """The setting, for training.remat."""
    bytes: float
    """Of all layers' kept activations and what no policy changes."""
    extra: float


@dataclass(frozen=True)
class Measured:
    """Of one microbatch on one device."""

    layers: tuple[LayerCost, ...]
    fixed: float
    """Bytes that do not grow with depth, the largest over policies: loss, embeddings, one layer at work."""


def plan_remat(costs: Sequence[LayerCost], layers: int, budget: float, *, fixed: float = 0.0) -> RematPlan:
    """The cheapest assignment of at most two policies to the layers that fits, the thriftier one first.

    Two are enough: with layers alike, any third could be traded against the others without loss, but for less than one
    layer. The first layers get the policy that keeps less, since their activations wait longest. Raises ValueError,
    saying what is missing, when no assignment fits.
    """
    plans = []
    for cheap in costs:
        for lean in costs:
            if lean.kept > cheap.kept:
                continue
            room = budget - fixed - layers * lean.kept
            step = cheap.kept - lean.kept
            spared = layers if step == 0 and room >= 0 else int(min(layers, room // step)) if step else -1
            if room < 0 or spared < 0:
                continue
            plans.append(_plan(lean, cheap, layers, spared, fixed))
    if not plans:
        least = min(cost.kept for cost in costs)
        need = fixed + layers * least
        raise ValueError(
            f"no remat policy fits {budget / 2**30:.2f} GiB: {layers} layers need at least {need / 2**30:.2f} GiB "
            f"({fixed / 2**30:.2f} of it whatever the policy): lower the microbatch by training.accumulation, or "
            "split over more devices"
        )
    return min(plans, key=lambda plan: (plan.extra, plan.bytes))


def _plan(lean: LayerCost, cheap: LayerCost, layers: int, spared: int, fixed: float) -> RematPlan:
    used = fixed + (layers - spared) * lean.kept + spared * cheap.kept
    extra = (layers - spared) * lean.extra + spared * cheap.extra
    if spared == layers:
        return RematPlan(cheap.policy, used, extra)
    if not spared:
        return RematPlan(lean.policy, used, extra)
    return RematPlan(f"{lean.policy}*{layers - spared} + {cheap.policy}", used, extra)


def plan_microbatch(measured: Measured, layers: int, rows: int, budget: float) -> tuple[int, RematPlan]:
    """`(accumulation, plan)`: into how many microbatches to cut `rows` sequences, and the remat policy of each.

    `measured` is of all rows at once. What a layer keeps, and its cost, go with the rows; what no policy changes is
    taken as it is, which is too much for fewer rows, and for more than one microbatch the sum of the gradients comes
    on top (leave room for it in the budget). Less recomputation is better, then fewer microbatches. Raises ValueError
    when one row at a time does not fit.
    """
    best = None
    for accumulation in (n for n in range(1, rows + 1) if rows % n == 0):
        costs = [replace(cost, kept=cost.kept / accumulation) for cost in measured.layers]
        try:
            plan = plan_remat(costs, layers, budget, fixed=measured.fixed)
        except ValueError:
            if accumulation == rows:
                raise
            continue
        if best is None or plan.extra < best[1].extra:
            best = accumulation, plan
    return best


def measure_layers(
    config: ModelConfig, rows: int, policies: Sequence[str] = CANDIDATES, *, depths: tuple[int, int] = (2, 4)
) -> Measured:
    """Compile the gradient of `rows` sequences at both depths under each policy and see what each layer adds.

    Of a model whose layers are alike; nothing is run. Weights and their gradients are no temporary memory, so they do
    not count. Raises ValueError for a model with a prologue or a pattern of several blocks.
    """
    if config.prologue or len(config.pattern) > 1:
        raise ValueError("layers are measured by depth, so they must be alike: this model has a prologue or a pattern")
    costs, fixed = [], 0.0
    for policy in policies:
        shallow, deep = (_temporary_bytes(replace(config, num_layers=depth), rows, policy) for depth in depths)
        kept = (deep - shallow) / (depths[1] - depths[0])
        fixed = max(fixed, shallow - depths[0] * kept)
        costs.append(LayerCost(policy, kept, extra_flops(config, policy) * rows * config.context_length))
    return Measured(tuple(costs), fixed)


def extra_flops(config: ModelConfig, policy: str) -> float:
    """Operations per token and layer that a policy repeats: products with weights, scores and averages of attention.

    Elementwise work is not counted, nor is it left out that a layer's last product is not asked for: `full` is an upper
    bound. Raises ValueError for a policy that is none of the candidates.
    """
    work = forward_flops(config, config.context_length)
    mixing = sum(work.values()) - work["weights"]
    weights = work["weights"] - 2.0 * config.vocab_size * config.d_model
    again = {"none": 0.0, "attention": mixing / 2, "dots": mixing, "full": weights + mixing}
    if policy not in again:
        raise ValueError(f"no count of operations for remat policy {policy!r}: expected one of {', '.join(again)}")
    return again[policy] / config.num_layers


def _temporary_bytes(config: ModelConfig, rows: int, policy: str) -> int:
    types = {"tokens": "int32", "targets": "int32", "weights": "float32", "segment_ids": "int32", "positions": "int32"}
    batch = {name: jax.ShapeDtypeStruct((rows, config.context_length), jnp.dtype(t)) for name, t in types.items()}
    objective = next_token(config, remat=policy)
    loss = partial(lambda objective, params, batch: objective(params, batch)[0], objective)
    compiled = jax.jit(jax.grad(loss)).lower(abstract(decoder_spec(config)), batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes
