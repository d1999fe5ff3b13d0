"""What the loop is given and what it gives back: the job, those it talks to, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Spec, count
from jaxllm.objectives.next_token import Objective, Scheduled, next_token, switched
from jaxllm.parallel.sharding import Layout
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
    events: tuple[Event, ...] = ()  # besides evaluation


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
    axes = " x ".join(f"{name}={size}" for name, size in layout.mesh.shape.items())
    attention = "; ".join(f"{s.repeats} x {len(s.blocks)}: dot products over the whole row" for s in model.segments())
    step_flops = job.flops_per_token * training.batch_size * model.context_length
    temporary = memory.temp_size_in_bytes
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + temporary - memory.alias_size_in_bytes
    lines = [
        f"model      {count(job.spec):,} parameters, {model.num_layers} layers, context {model.context_length}, "
        f"{model.compute_dtype} compute, float32 parameters",
        f"mesh       {devices.size} {devices.flat[0].device_kind} ({axes})",
        f"batch      {training.batch_size} rows of {model.context_length} tokens in {training.accumulation} "
        f"microbatch(es), remat {training.remat}",
        f"attention  {attention}",
        f"compute    {job.flops_per_token / 1e6:,.1f} MFLOP per token, {step_flops / 1e9:,.1f} GFLOP per step",
        f"memory     {used / 2**20:,.0f} MiB per device for the step ({temporary / 2**20:,.0f} MiB temporary)",
        f"optimizer  {experiment.optimizer.kind}, {experiment.optimizer.schedule} schedule, {training.steps} steps",
        f"compiled   in {compile_seconds:.1f} s",
    ]
    return "\n".join(lines)
