"""What the loop is given and what it gives back: the job, those it talks to, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Spec, count
from jaxllm.models.kernel_plan import kernel_plan
from jaxllm.objectives.next_token import Objective, Scheduled, next_token, switched
from jaxllm.parallel.schedules import ticks
from jaxllm.parallel.sharding import Layout, use_layout
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.state import TrainState


class Batches(Protocol):
    """An endless iterator over this process's part of each global batch, with a position that can be saved and
    restored."""

    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Event:
    """Something to be done with the state every `every` steps (0: never) and after the last one, such as an export.

    One that was due when the run was stopped is done first thing when it goes on.
    """

    name: str
    every: int
    act: Callable[[TrainState, int], None]  # (state, step), in every process


@dataclass(frozen=True)
class Job:
    """What the loop needs beside the experiment: the objective and the data."""

    experiment: Experiment
    spec: Spec
    objective: Objective
    batches: Batches
    validation: Iterable[dict[str, np.ndarray]]
    token_bytes: np.ndarray  # int [V], the length of each token in bytes, 0 for special tokens
    flops_per_token: float
    peak_flops: float | None  # of all devices together
    memory_report: tuple[str, ...] = ()  # lines of the plan: where the bytes go, by arithmetic
    events: tuple[Event, ...] = ()  # besides evaluation
    # What the log says of the batches up to a state of theirs, such as the tokens of each source.
    describe_batches: Callable[[dict[str, Any]], dict[str, float]] = lambda state: {}


def pretraining_objective(model: ModelConfig, training: TrainingConfig) -> Objective:
    """The next-token loss with the settings of a run."""
    settings = {"z_loss": training.z_loss, "remat": training.remat}
    if model.multi_token is None:
        return next_token(model, **settings)
    switch = round(training.multi_token_switch * training.steps)
    weight = switched(training.multi_token_weight, training.multi_token_last_weight, switch)
    return Scheduled(lambda step: next_token(model, **settings, multi_token_weight=weight(step)))


class Reporter(Protocol):
    """Where the loop tells a person what happens; the command line draws a progress bar with it."""

    def say(self, message: str) -> None: ...
    def progress(self, row: dict[str, Any], steps: int) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run, or this session of it, ended."""

    step: int
    steps: int
    val_loss: float | None
    val_bpb: float | None
    compile_seconds: float
    stopped_by: str | None  # the signal that ended it early

    @property
    def finished(self) -> bool:
        return self.step >= self.steps


class Silent:
    """A reporter for tests and programs: nothing is printed."""

    def say(self, message: str) -> None:
        """Nothing is said."""

    def progress(self, row: dict[str, Any], steps: int) -> None:
        """Nothing is drawn."""


def describe_plan(job: Job, layout: Layout, memory: Any, compile_seconds: float) -> str:
    """What a person wants to know before step 0; `memory` is the compiled step's memory analysis."""
    experiment, model, training = job.experiment, job.experiment.model, job.experiment.training
    devices = layout.mesh.devices
    axes = " x ".join(f"{name}={size}" for name, size in layout.mesh.shape.items() if size > 1) or "one device"
    with use_layout(layout):
        kernels = "; ".join(kernel_plan(model)) or "plain JAX"
    step_flops = job.flops_per_token * training.batch_size * model.context_length
    temporary = memory.temp_size_in_bytes
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + temporary - memory.alias_size_in_bytes
    lines = [
        f"model      {count(job.spec):,} parameters, {model.num_layers} layers, context {model.context_length}, "
        f"{model.compute_dtype} compute, {experiment.precision.parameters} parameters",
        f"mesh       {devices.size} {devices.flat[0].device_kind} ({axes})",
        *_pipeline_lines(experiment, layout.mesh.shape["pipeline"]),
        f"batch      {training.batch_size} rows of {model.context_length} tokens in {training.accumulation} "
        f"microbatch(es), remat {training.remat}",
        f"kernels    {kernels}",
        f"compute    {job.flops_per_token / 1e6:,.1f} MFLOP per token, {step_flops / 1e9:,.1f} GFLOP per step",
        f"memory     {used / 2**20:,.0f} MiB per device for the step ({temporary / 2**20:,.0f} MiB temporary)",
        *(f"           {line}" for line in job.memory_report),
        f"precision  {_describe_precision(experiment)}",
        f"optimizer  {experiment.optimizer.kind}, {experiment.optimizer.schedule} schedule, {training.steps} steps",
        f"compiled   in {compile_seconds:.1f} s",
    ]
    return "\n".join(lines)


def _pipeline_lines(experiment: Experiment, ranks: int) -> list[str]:
    if ranks == 1:
        return []
    schedule = experiment.pipeline.build(ranks, experiment.training.accumulation)
    return [
        f"pipeline   {schedule.name}: {schedule.stages} stages on {ranks} ranks, {schedule.microbatches} microbatches, "
        f"{len(ticks(schedule))} ticks"
    ]


def _describe_precision(experiment: Experiment) -> str:
    precision, products = experiment.precision, experiment.precision.products
    parts = [
        f"weights between steps {precision.parameters}",
        f"optimizer state {precision.optimizer_state}"
        + (" in host memory" if experiment.training.offload_optimizer else ""),
    ]
    if "bfloat16" in (precision.parameters, precision.optimizer_state):
        parts.append("rounded by chance")
    if products.kind != "none":
        parts.append(f"hidden products {products.kind} with {products.scaling} scales by {products.scales}")
    if experiment.model.compute_dtype == "float16":
        parts.append(f"loss scale from {precision.loss_scale.initial:g}")
    return ", ".join(parts)
