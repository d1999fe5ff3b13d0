"""Computing a step again: the same state and batch must give the same bits, on the same devices.

A chip that computes wrongly now and then gives itself away where replicas can't: with one replica, or when the wrong
number went through the all-reduce and so is wrong everywhere alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.training.checkpoints import CheckpointError, Checkpoints, flatten
from jaxllm.training.replicas import device_digests
from jaxllm.training.state import TrainState
from jaxllm.training.step import Step


@dataclass(frozen=True)
class Twice:
    """A step computed twice: what goes on, and by device what differed."""

    state: TrainState
    metrics: dict[str, jax.Array]
    differing: tuple[str, ...]  # a line for each array


def step_twice(train_step: Step, state: TrainState, batch: Any) -> Twice:
    """`state` is donated, as by the step itself; the result of the first computation is what goes on."""
    before = jax.tree.map(jnp.copy, state)
    first, metrics = train_step(state, batch)
    digests = device_digests(flatten(first))
    second, _ = train_step(before, batch)
    again = device_digests(flatten(second))
    devices = jax.tree.leaves(first)[0].sharding.mesh.devices
    lines = []
    for name in digests:
        wrong = devices[digests[name] != again[name]]
        if wrong.size:
            where = ", ".join(f"device {d.id} of process {d.process_index}" for d in wrong.flat)
            lines.append(f"{name} on {where}")
    return Twice(first, metrics, tuple(lines))


@dataclass(frozen=True)
class Replayed:
    """One step of a run, computed again."""

    step: int
    loss: float
    logged: float | None  # as the run's log has it, None where it has no such step
    differing: tuple[str, ...]  # arrays that two computations of the step gave different bits for

    @property
    def same(self) -> bool:
        return not self.differing and self.logged in (None, self.loss)


@dataclass(frozen=True)
class Replay:
    """What a run computes with: its compiled step, the state's shapes and places, its batches and where rows go."""

    train_step: Step
    target: TrainState
    batches: Any
    place: Callable[[Any], Any]

    def run(self, directory: Path, checkpoints: Checkpoints, start: int, steps: int) -> Iterator[Replayed]:
        """The steps after checkpoint `start`, each computed twice and held against `metrics.jsonl`; nothing is
        written.

        Where the last of them is a checkpoint too, what it holds is compared with what was computed: a last `Replayed`
        of that step, without a loss, names the arrays that differ. The mesh must be that of the run: another adds in
        another order. Raises CheckpointError when the checkpoint is not there or is damaged.
        """
        restored = checkpoints.read(start, self.target)
        self.batches.set_state(restored.progress["batches"])
        logged = _losses(directory)
        state = restored.state
        for step in range(start + 1, start + steps + 1):
            twice = step_twice(self.train_step, state, self.place(next(self.batches)))
            state = twice.state
            yield Replayed(step, float(twice.metrics["loss"]), logged.get(step), twice.differing)
        if start + steps in checkpoints.steps():
            yield Replayed(start + steps, math.nan, None, self._against(checkpoints, start + steps, flatten(state)))

    def _against(self, checkpoints: Checkpoints, step: int, here: dict[str, jax.Array]) -> tuple[str, ...]:
        try:
            there = flatten(checkpoints.read(step, self.target).state)
        except CheckpointError as error:  # its digests were of replicas that differed, or the disk is at fault
            return (str(error),)
        return tuple(name for name in here if not _same_bits(here[name], there[name]))


def _same_bits(one: jax.Array, other: jax.Array) -> bool:
    pairs = zip(one.addressable_shards, other.addressable_shards, strict=True)
    return all(np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes() for a, b in pairs)


def _losses(directory: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: float(row["loss"]) for row in rows if "loss" in row}
