"""A training step over a pipeline: the schedule's instructions, run in lock step by all ranks.

One `shard_map` over the mesh axis `pipeline`; all other axes are left to the compiler, as everywhere else. A scan goes
through the ticks. In a tick a rank looks up in its own table whether it computes a forward, and whether a backward and
of which kind, and branches; then all ranks exchange messages. Ranks that branch differently must not wait for each
other, so no branch communicates along the pipeline.

Nothing of a forward is kept but the stage's input: a backward computes the stage's forward again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec

from jaxllm.parallel.pipeline.instructions import BACKWARDS, FIRST, LAST, Instructions
from jaxllm.parallel.pipeline.split_backward import Split, split_backward
from jaxllm.parallel.pipeline.stage_routes import StageRoutes
from jaxllm.parallel.schedules import Kind
from jaxllm.parallel.sharding import Layout, constrain, use_layout

AXIS = "pipeline"


@dataclass(frozen=True)
class StagedModel:
    """A model and its loss in three parts. Losses are scalars that add up to that of a microbatch; a report is a pytree
    of what else there is to say, averaged over microbatches.

    `ends` are the parameters outside the stages, the same on every rank; `layers` those of one stage; `microbatch` is
    whatever the caller gave of one.
    """

    first: Callable[[Any, Any], tuple[jax.Array, jax.Array, Any]]
    """(ends, microbatch) -> (x, loss, report)"""
    middle: Callable[[Any, jax.Array, Any, jax.Array], tuple[jax.Array, jax.Array, Any]]
    """(layers, x, microbatch, number of the stage) -> (x, loss, report)"""
    last: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
    """(ends, x, microbatch) -> (loss, report)"""


@struct.dataclass
class Totals:
    """What a rank adds up over microbatches."""

    loss: jax.Array
    first: Any
    """The report of the first part."""
    middle: Any
    """Reports of the rank's chunks, stacked."""
    last: Any
    ends_bar: Any
    """Gradient of the parameters outside the stages."""


@struct.dataclass
class Work:
    """One backward: what it reads that is there before and after."""

    layers: Any
    ends: Any
    microbatch: Any
    weight: jax.Array
    stage: jax.Array
    position: jax.Array
    """Bits FIRST and LAST."""


def run_pipeline(
    model: StagedModel,
    program: Instructions,
    layout: Layout,
    layers: Any,
    ends: Any,
    microbatches: Any,
    weights_M: jax.Array,
) -> tuple[Totals, Any]:
    """The weighted sum over microbatches of loss, reports and gradients: `(totals, layers_bar)`.

    `layers` has the stages of the model in order on the leading axis of every leaf, `microbatches` the microbatches.
    In the totals, `middle` is by stage. Call it inside `jax.jit`, with the layout of the whole mesh.
    """
    schedule = program.schedule
    routes = StageRoutes.of(schedule.placement, schedule.ranks)
    run = partial(_run_rank, model, program, routes, layout)
    staged, everywhere = PartitionSpec(AXIS), PartitionSpec()
    run = jax.shard_map(
        run,
        mesh=layout.mesh,
        axis_names={AXIS},
        in_specs=(staged, everywhere, everywhere, everywhere, PartitionSpec(None, AXIS)),
        out_specs=(Totals(everywhere, everywhere, staged, everywhere, everywhere), staged),
        check_vma=False,
    )
    table = {name: jnp.asarray(numbers) for name, numbers in program.table().items()}
    totals, layers_bar = run(layers, ends, microbatches, weights_M, table)
    return totals.replace(middle=_by_stage(schedule, totals.middle)), layers_bar


def _by_stage(schedule, reports: Any) -> Any:
    """Reports of all ranks' chunks, rank after rank, put into the order of the stages; those of copies are added."""
    place = {chunk: i for i, chunk in enumerate(chunk for held in schedule.chunks for chunk in held)}
    orders = [[place[direction, stage] for stage in range(schedule.stages)] for direction in range(schedule.directions)]
    return jax.tree.map(lambda x: sum(x[jnp.asarray(order)] for order in orders), reports)


def _run_rank(model, program, routes: StageRoutes, layout, layers, ends, microbatches, weights_M, table):
    # Inside, the pipeline's axis is no longer the compiler's to use: the layout is that of the other axes.
    with use_layout(replace(layout, mesh=jax.sharding.get_abstract_mesh())):
        rank = _Rank(model, program, routes.deliver(layers), ends, microbatches, weights_M)
        rows = jax.tree.map(lambda numbers: numbers[:, 0], table)
        state, _ = jax.lax.scan(lambda state, row: (rank.tick(state, row), None), rank.start(), rows)
        summed = jax.lax.psum(state.totals.replace(middle=None), AXIS)
        return summed.replace(middle=state.totals.middle), routes.collect(state.layers_bar)


@struct.dataclass
class State:
    """What a rank carries from tick to tick."""

    totals: Totals
    layers_bar: Any
    x: jax.Array
    y_bar: jax.Array
    saved: list[jax.Array]


class _Rank:
    """The program of one rank; all arrays are its own part."""

    def __init__(self, model, program, layers, ends, microbatches, weights_M):
        self.model, self.program = model, program
        self.layers, self.ends, self.microbatches, self.weights_M = layers, ends, microbatches, weights_M
        work = jax.eval_shape(lambda: self._work(jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.int32(0)))
        self.x, _, self.first_report = jax.eval_shape(model.first, ends, work.microbatch)
        _, _, self.middle_report = jax.eval_shape(model.middle, work.layers, self.x, work.microbatch, work.stage)
        _, self.last_report = jax.eval_shape(model.last, ends, self.x, work.microbatch)
        self.split: Split | None = None
        if Kind.INPUT_GRADIENT in program.kinds:
            totals = jax.eval_shape(lambda: self._totals(chunks=None))
            self.split = split_backward(self._backward, work, (self.x, self.x, totals))

    def start(self) -> State:
        slots = self.program.slots
        stash = lambda name, like: jnp.zeros((slots[name], *like.shape), like.dtype)  # noqa: E731
        stream = lambda name: constrain(stash(name, self.x), None, "batch", "length", None)  # noqa: E731
        saved = [stash("saved", like) for like in self.split.saved] if self.split else []
        chunks = jax.tree.leaves(self.layers)[0].shape[0]
        layers_bar = jax.tree.map(jnp.zeros_like, self.layers)
        return State(self._totals(chunks), layers_bar, stream("x"), stream("y_bar"), saved)

    def _totals(self, chunks: int | None) -> Totals:
        zeros = partial(jax.tree.map, lambda like: jnp.zeros(like.shape, like.dtype))
        lead = () if chunks is None else (chunks,)
        middle = jax.tree.map(lambda like: jnp.zeros((*lead, *like.shape), like.dtype), self.middle_report)
        return Totals(jnp.zeros(()), zeros(self.first_report), middle, zeros(self.last_report), zeros(self.ends))

    def tick(self, state: State, row: dict[str, jax.Array]) -> State:
        """One tick: a forward or none, a backward of some kind or none, then messages."""
        nothing = lambda state, row: jnp.zeros(self.x.shape, self.x.dtype)  # noqa: E731
        y = jax.lax.cond(row["forward"] > 0, self._forward, nothing, state, row)
        does = {Kind.BACKWARD: self._whole, Kind.INPUT_GRADIENT: self._inputs, Kind.WEIGHT_GRADIENT: self._weights}
        x_bar = jnp.zeros(self.x.shape, self.x.dtype)
        for kind in self.program.kinds:
            mine = row["backward"] == 1 + BACKWARDS.index(kind)
            state, x_bar = _where(mine, lambda carry, do=does[kind]: do(carry[0], row), (state, x_bar))
        return self._exchange(state, {"x": y, "y_bar": x_bar}, row)

    def _exchange(self, state: State, sent: dict[str, jax.Array], row) -> State:
        stashes = {"x": state.x, "y_bar": state.y_bar}
        for i, channel in enumerate(self.program.channels):
            message = sent[channel.payload]
            if channel.shift:
                message = jax.lax.ppermute(message, AXIS, channel.pairs)
            stash = stashes[channel.payload]
            stashes[channel.payload] = jax.lax.dynamic_update_index_in_dim(stash, message, row[f"arrival_{i}"], 0)
        return state.replace(**stashes)

    # What a rank may do in a tick

    def _forward(self, state: State, row) -> jax.Array:
        work = self._work(*(row[f"forward_{name}"] for name in ("microbatch", "chunk", "stage", "ends")))
        x = self._input(work, _at(state.x, row["forward_x"]))
        return self.model.middle(work.layers, x, work.microbatch, work.stage)[0]

    def _whole(self, state: State, row):
        work, passing = self._operands(state, row)
        (x_bar, totals), layers_bar = self._backward(work, passing)
        return self._added(state, row, totals, layers_bar), x_bar

    def _inputs(self, state: State, row):
        work, passing = self._operands(state, row)
        (x_bar, totals), saved = self.split.early(work, passing)
        put = lambda stash, x: jax.lax.dynamic_update_index_in_dim(stash, x, row["backward_saved"], 0)  # noqa: E731
        state = state.replace(saved=[put(stash, x) for stash, x in zip(state.saved, saved, strict=True)])
        return self._added(state, row, totals, None), x_bar

    def _weights(self, state: State, row):
        work = self._work(*(row[f"backward_{name}"] for name in ("microbatch", "chunk", "stage", "ends")))
        layers_bar = self.split.late(work, [_at(stash, row["backward_saved"]) for stash in state.saved])
        return self._added(state, row, None, layers_bar), jnp.zeros(self.x.shape, self.x.dtype)

    def _operands(self, state: State, row):
        work = self._work(*(row[f"backward_{name}"] for name in ("microbatch", "chunk", "stage", "ends")))
        mine = jax.tree.map(lambda x: _at(x, row["backward_chunk"]), state.totals.middle)
        totals = state.totals.replace(middle=mine)
        return work, (_at(state.x, row["backward_x"]), _at(state.y_bar, row["backward_y_bar"]), totals)

    def _added(self, state: State, row, totals: Totals | None, layers_bar) -> State:
        chunk = row["backward_chunk"]
        if totals is not None:
            put = lambda x, mine: jax.lax.dynamic_update_index_in_dim(x, mine, chunk, 0)  # noqa: E731
            middle = jax.tree.map(put, state.totals.middle, totals.middle)
            state = state.replace(totals=totals.replace(middle=middle))
        if layers_bar is not None:
            add = lambda x, more: jax.lax.dynamic_update_index_in_dim(x, _at(x, chunk) + more, chunk, 0)  # noqa: E731
            state = state.replace(layers_bar=jax.tree.map(add, state.layers_bar, layers_bar))
        return state

    def _work(self, microbatch, chunk, stage, position) -> Work:
        return Work(
            layers=jax.tree.map(lambda x: _at(x, chunk), self.layers),
            ends=self.ends,
            microbatch=jax.tree.map(lambda x: _at(x, microbatch), self.microbatches),
            weight=_at(self.weights_M, microbatch),
            stage=stage,
            position=position,
        )

    def _input(self, work: Work, x: jax.Array) -> jax.Array:
        """What arrived, or on the first stage what it makes of the tokens."""
        embed = lambda: self.model.first(work.ends, work.microbatch)[0]  # noqa: E731
        return jax.lax.cond(work.position & FIRST > 0, embed, lambda: x)

    def _backward(self, work: Work, passing):
        """`((x_bar, totals), layers_bar)` of one microbatch on one stage."""
        x, y_bar, totals = passing
        x = self._input(work, x)

        def middle(layers, x):
            y, loss, report = self.model.middle(layers, x, work.microbatch, work.stage)
            return (y, loss), report

        (y, loss), pull, report = jax.vjp(middle, work.layers, x, has_aux=True)
        totals = totals.replace(loss=totals.loss + work.weight * loss, middle=_plus(totals.middle, report, work.weight))
        loss = lambda carry: self._loss(work, y, *carry)  # noqa: E731
        y_bar, totals = _where(work.position & LAST > 0, loss, (y_bar, totals))
        layers_bar, x_bar = pull((y_bar, work.weight))
        embedding = lambda totals: self._embedding(work, x_bar, totals)  # noqa: E731
        totals = _where(work.position & FIRST > 0, embedding, totals)
        return (x_bar, totals), layers_bar

    def _loss(self, work: Work, y, y_bar, totals: Totals):
        last = lambda ends, y: self.model.last(ends, y, work.microbatch)  # noqa: E731
        loss, pull, report = jax.vjp(last, work.ends, y, has_aux=True)
        ends_bar, y_bar = pull(work.weight)
        return y_bar, totals.replace(
            loss=totals.loss + work.weight * loss,
            last=_plus(totals.last, report, work.weight),
            ends_bar=jax.tree.map(jnp.add, totals.ends_bar, ends_bar),
        )

    def _embedding(self, work: Work, x_bar, totals: Totals) -> Totals:
        def first(ends):
            x, loss, report = self.model.first(ends, work.microbatch)
            return (x, loss), report

        (_, loss), pull, report = jax.vjp(first, work.ends, has_aux=True)
        (ends_bar,) = pull((x_bar, work.weight))
        return totals.replace(
            loss=totals.loss + work.weight * loss,
            first=_plus(totals.first, report, work.weight),
            ends_bar=jax.tree.map(jnp.add, totals.ends_bar, ends_bar),
        )


def _where(flag: jax.Array, step: Callable[[Any], Any], carry: Any) -> Any:
    """`step(carry)` where the flag is set, else the carry as it is.

    XLA copies some of what a branch hands through. A loop of one turn or none would not, and is slower all the same: on
    CPUs 2.6 times for 1F1B, whose memory it leaves as it is.
    """
    return jax.lax.cond(flag, step, lambda carry: carry, carry)


def _at(array: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, index, 0, keepdims=False)


def _plus(total: Any, report: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda a, b: a + weight.astype(a.dtype) * b, total, report)
