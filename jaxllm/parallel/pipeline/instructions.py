"""A schedule as tables of numbers: what each rank does in each tick, and where what it reads and receives lies.

In a tick a rank runs at most one forward and at most one backward (of any kind), then messages travel. A message that
is sent in one tick is in the receiver's stash when the next begins. Slots of a stash are handed out as the schedule
needs them, so a stash is as large as its high-water mark, and one slot more, where messages end that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np

from jaxllm.parallel.schedules import Action, Kind, Schedule, ticks

Payload = Literal["x", "y_bar"]
"""What travels: the output of a forward, or the gradient of a stage's input."""

BACKWARDS = (Kind.BACKWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)
FIRST, LAST = 1, 2
"""Bits of `ends`: the stage is the model's first, its last, or both."""


@dataclass(frozen=True)
class Columns:
    """Integers for each [tick, rank]; those that mean nothing there are 0, slots the one for waste."""

    forward: np.ndarray
    """1 where a forward is computed. The last stage needs none: its backward computes it again."""
    forward_microbatch: np.ndarray
    forward_stage: np.ndarray
    forward_chunk: np.ndarray
    forward_ends: np.ndarray
    forward_x: np.ndarray
    """Slot of the stage's input."""
    backward: np.ndarray
    """0, or one more than the position of the kind in BACKWARDS."""
    backward_microbatch: np.ndarray
    backward_stage: np.ndarray
    backward_chunk: np.ndarray
    backward_ends: np.ndarray
    backward_x: np.ndarray
    backward_y_bar: np.ndarray
    """Slot of the gradient of the stage's output."""
    backward_saved: np.ndarray
    """Slot of what the gradient of the inputs leaves for that of the weights."""


@dataclass(frozen=True)
class Channel:
    """Messages of one kind between ranks at one distance: one permutation in each tick."""

    payload: Payload
    shift: int
    """Receiver minus sender, modulo the number of ranks; 0 for what stays where it is."""
    pairs: tuple[tuple[int, int], ...]
    """The (sender, receiver) pairs that ever carry one."""
    slots: np.ndarray
    """Where each rank puts what it receives, [tick, rank]."""


@dataclass(frozen=True)
class Instructions:
    """A schedule made ready for `run_pipeline`."""

    schedule: Schedule
    columns: Columns
    channels: tuple[Channel, ...]
    slots: dict[str, int]
    """Size of each stash, `x`, `y_bar` and `saved`, the slot for waste included."""

    @property
    def ticks(self) -> int:
        return len(self.columns.forward)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of backward that occur."""
        return tuple(kind for code, kind in enumerate(BACKWARDS, 1) if (self.columns.backward == code).any())

    def lock_step_time(self, forward=1, backward=3, input_gradient=2, weight_gradient=1):
        """The time of a step in which every tick takes as long as its slowest rank, by what one stage costs.

        As they stand, costs are those of a stage whose forward, input and weight gradients take 1 each, where backwards
        compute the forward again.
        """
        costs = np.array([0, backward, input_gradient, weight_gradient])
        return (forward * self.columns.forward + costs[self.columns.backward]).max(1).sum()

    def table(self) -> dict[str, np.ndarray]:
        """All columns and the slots of arriving messages, [tick, rank] each, by name."""
        table = {field.name: getattr(self.columns, field.name) for field in fields(Columns)}
        return table | {f"arrival_{i}": channel.slots for i, channel in enumerate(self.channels)}

    def executed(self, rank: int) -> list[tuple[Action, ...]]:
        """What the numbers make a rank do, read back from them: the rank's program in the schedule."""
        c, steps = self.columns, []
        for t in range(self.ticks):
            step = []
            last = self.schedule.stages - 1
            if c.forward[t, rank] or c.forward_ends[t, rank] & LAST:
                step.append((Kind.FORWARD, c.forward_microbatch, c.forward_stage, c.forward_chunk))
            if c.backward[t, rank]:
                kind = BACKWARDS[c.backward[t, rank] - 1]
                step.append((kind, c.backward_microbatch, c.backward_stage, c.backward_chunk))
            assert not (c.forward[t, rank] and c.forward_stage[t, rank] == last)
            direction = lambda chunk: self.schedule.chunks[rank][chunk][0]  # noqa: E731
            actions = [Action(k, int(m[t, rank]), int(s[t, rank]), direction(n[t, rank])) for k, m, s, n in step]
            steps += [tuple(actions)] if actions else []
        return steps


def instructions(schedule: Schedule) -> Instructions:
    """The tables of a schedule. Raises ScheduleError where its ranks wait for each other."""
    rows = ticks(schedule)
    tick_of = {action: t for t, row in enumerate(rows) for step in row if step for action in step}
    places, slots = _stashes(schedule, tick_of)
    shape = (len(rows), schedule.ranks)
    numbers = {field.name: np.zeros(shape, np.int32) for field in fields(Columns)}
    for name in ("forward_x", "backward_x", "backward_y_bar", "backward_saved"):
        numbers[name][:] = slots[name.split("_", 1)[1]] - 1
    for action, t in tick_of.items():
        for name, number in _numbers(schedule, action, places, slots).items():
            numbers[name][t, schedule.rank(action)] = number
    return Instructions(schedule, Columns(**numbers), _channels(schedule, tick_of, places, slots), slots)


def _numbers(schedule: Schedule, action: Action, places: dict, slots: dict[str, int]) -> dict[str, int]:
    """What one action puts into the columns."""
    side = "forward" if action.kind is Kind.FORWARD else "backward"
    last = action.stage == schedule.stages - 1
    row = {
        "microbatch": action.microbatch,
        "stage": action.stage,
        "chunk": schedule.chunk(action),
        "ends": FIRST * (action.stage == 0) + LAST * last,
    }
    names = ("x",) if side == "forward" else ("x", "y_bar", "saved")
    row |= {name: places.get((name, action.microbatch, action.stage), slots[name] - 1) for name in names}
    code = int(not last) if side == "forward" else 1 + BACKWARDS.index(action.kind)
    return {side: code} | {f"{side}_{name}": number for name, number in row.items()}


def _stashes(schedule: Schedule, tick_of: dict[Action, int]) -> tuple[dict, dict[str, int]]:
    """The slot of each thing that is kept, by (name, microbatch, stage), and how many slots each stash has."""
    spans: dict[str, dict[int, list[tuple[int, int, tuple]]]] = {"x": {}, "y_bar": {}, "saved": {}}
    for action, t in tick_of.items():
        rank = schedule.rank(action)
        if action.kind is Kind.WEIGHT_GRADIENT:
            (made,) = schedule.needs(action)
            _keep(spans, "saved", action, rank, tick_of[made], t)
        elif action.kind is not Kind.FORWARD:
            # An input is kept until the gradient of the input is there; the first stage makes its own from tokens.
            for needed in schedule.needs(action):
                if needed.kind is not Kind.FORWARD:
                    _keep(spans, "y_bar", action, rank, tick_of[needed] + 1, t)
                elif needed.stage > 0:
                    (before,) = schedule.needs(needed)
                    _keep(spans, "x", action, rank, tick_of[before] + 1, t)
    places: dict[tuple[str, int, int], int] = {}
    slots = {}
    for name, by_rank in spans.items():
        high = 0
        for held in by_rank.values():
            numbers = allot((begin, end) for begin, end, _ in held)
            places |= {(name, *of): number for (_, _, of), number in zip(held, numbers, strict=True)}
            high = max(high, 1 + max(numbers))
        slots[name] = high + 1
    return places, slots


def _keep(spans, name: str, action: Action, rank: int, begin: int, end: int) -> None:
    spans[name].setdefault(rank, []).append((begin, end, (action.microbatch, action.stage)))


def allot(spans: Iterable[tuple[int, int]]) -> list[int]:
    """A number for each span of ticks, both ends included, so that spans that meet have different ones: the lowest that
    is free, which takes no more numbers than there are spans at once."""
    spans = list(spans)
    numbers, busy_until = [0] * len(spans), []
    for i in sorted(range(len(spans)), key=lambda i: spans[i]):
        begin, end = spans[i]
        free = [number for number, until in enumerate(busy_until) if until < begin]
        numbers[i] = free[0] if free else len(busy_until)
        busy_until[numbers[i] : numbers[i] + 1] = [end]
    return numbers


def _channels(schedule: Schedule, tick_of: dict[Action, int], places: dict, slots: dict[str, int]) -> tuple:
    shape = (1 + max(tick_of.values()), schedule.ranks)
    found: dict[tuple[Payload, int], tuple[set, np.ndarray]] = {}
    for action, t in tick_of.items():
        reader = schedule.reader(action)
        if reader is None:
            continue
        payload: Payload = "x" if action.kind is Kind.FORWARD else "y_bar"
        sender, receiver = schedule.rank(action), schedule.rank(reader)
        key = (payload, (receiver - sender) % schedule.ranks)
        pairs, arrivals = found.setdefault(key, (set(), np.full(shape, slots[payload] - 1, np.int32)))
        pairs.add((sender, receiver))
        arrivals[t, receiver] = places[payload, reader.microbatch, reader.stage]
    return tuple(Channel(*key, tuple(sorted(pairs)), arrivals) for key, (pairs, arrivals) in sorted(found.items()))
