"""A pipeline schedule as data: for each rank, in order, what it computes. Who sends what to whom follows from it.

A model is cut into *stages* 0 .. S-1 in the order of its layers. A *direction* is one way of laying the stages on the
ranks; all schedules have one direction but DualPipe, which sends half of the microbatches through a second copy of the
model that lies the other way round. A rank's *chunk* is a pair (direction, stage) that it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


class ScheduleError(ValueError):
    """A schedule that leaves work out, does it twice or on the wrong rank, or whose ranks wait for each other."""


class Kind(StrEnum):
    """What is computed for one microbatch on one stage. BACKWARD is INPUT_GRADIENT and WEIGHT_GRADIENT in one go."""

    FORWARD = "F"
    BACKWARD = "B"
    INPUT_GRADIENT = "I"
    WEIGHT_GRADIENT = "W"


@dataclass(frozen=True, slots=True)
class Action:
    """One computation: `kind` for `microbatch` on `stage`, of the copy of the model that lies in `direction`."""

    kind: Kind
    microbatch: int
    stage: int
    direction: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch} of stage {self.stage}"


Step = tuple[Action, ...]
"""What a rank does at once: one action, or a forward and a backward that overlap. It begins when all inputs of all its
actions are there, and all its outputs are there when it ends."""


@dataclass(frozen=True)
class Schedule:
    """The order of work on every rank, complete by construction.

    Raises ScheduleError where a microbatch doesn't pass every stage forward once and backward once (as BACKWARD, or as
    INPUT_GRADIENT and WEIGHT_GRADIENT), or where an action is on a rank that doesn't hold its stage. That ranks don't
    wait for each other is found by `ticks` and by the simulator.
    """

    name: str
    microbatches: int
    placement: tuple[tuple[int, ...], ...]
    """The rank of each stage, for each direction: placement[direction][stage]."""
    programs: tuple[tuple[Step, ...], ...] = field(repr=False)
    """The steps of each rank, in order."""

    def __post_init__(self) -> None:
        _check_places(self)
        _check_overlaps(self)
        _check_complete(self)

    @property
    def ranks(self) -> int:
        return len(self.programs)

    @property
    def stages(self) -> int:
        return len(self.placement[0])

    @property
    def directions(self) -> int:
        return len(self.placement)

    @cached_property
    def chunks(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The chunks of each rank: (direction, stage), by stage within a direction."""
        held: list[list[tuple[int, int]]] = [[] for _ in range(self.ranks)]
        for direction, stages in enumerate(self.placement):
            for stage, rank in enumerate(stages):
                held[rank].append((direction, stage))
        return tuple(tuple(chunks) for chunks in held)

    def actions(self, rank: int) -> Iterator[Action]:
        """All actions of one rank, in order."""
        for step in self.programs[rank]:
            yield from step

    def rank(self, action: Action) -> int:
        """The rank that holds the action's stage."""
        return self.placement[action.direction][action.stage]

    def chunk(self, action: Action) -> int:
        """Which of its rank's chunks an action belongs to."""
        return self.chunks[self.rank(action)].index((action.direction, action.stage))

    def needs(self, action: Action) -> Step:
        """The actions whose results this one reads; one of them at most is on another stage."""
        match action.kind:
            case Kind.FORWARD:
                return (self._neighbour(action, -1),) if action.stage > 0 else ()
            case Kind.WEIGHT_GRADIENT:
                return (self._backwards[action.microbatch, action.stage],)
            case _:
                own = Action(Kind.FORWARD, action.microbatch, action.stage, action.direction)
                if action.stage == self.stages - 1:
                    return (own,)
                return (own, self._backwards[action.microbatch, action.stage + 1])

    def reader(self, action: Action) -> Action | None:
        """The action on the next stage, in the direction of the flow, that reads this one's result; None at an end."""
        if action.kind is Kind.FORWARD:
            return self._neighbour(action, 1) if action.stage < self.stages - 1 else None
        if action.kind is Kind.WEIGHT_GRADIENT or action.stage == 0:
            return None
        return self._backwards[action.microbatch, action.stage - 1]

    def receiver(self, action: Action) -> int | None:
        """The rank that an action's result is sent to; None where it stays on its own rank or nobody reads it."""
        reader = self.reader(action)
        if reader is None or self.rank(reader) == self.rank(action):
            return None
        return self.rank(reader)

    def _neighbour(self, action: Action, offset: int) -> Action:
        return Action(action.kind, action.microbatch, action.stage + offset, action.direction)

    @cached_property
    def _backwards(self) -> dict[tuple[int, int], Action]:
        """What gives the gradient of the inputs, for each microbatch and stage."""
        kinds = (Kind.BACKWARD, Kind.INPUT_GRADIENT)
        ranks = range(self.ranks)
        return {(a.microbatch, a.stage): a for rank in ranks for a in self.actions(rank) if a.kind in kinds}


def describe(step: Step) -> str:
    """A step in short, kind, microbatch and stage: `F3.0`, or `F7.1&B2.6` for two that overlap."""
    return "&".join(f"{action.kind}{action.microbatch}.{action.stage}" for action in step)


def _check_places(schedule: Schedule) -> None:
    """Every action is one that there is, on the rank that holds its stage."""
    if any(len(stages) != schedule.stages for stages in schedule.placement):
        raise ScheduleError(f"{schedule.name}: the directions place different numbers of stages")
    if not set().union(*schedule.placement) <= set(range(schedule.ranks)):
        raise ScheduleError(f"{schedule.name}: a stage lies on a rank outside 0 .. {schedule.ranks - 1}")
    limits = (schedule.microbatches, schedule.stages, schedule.directions)
    for rank in range(schedule.ranks):
        for action in schedule.actions(rank):
            numbers = (action.microbatch, action.stage, action.direction)
            if not all(0 <= number < limit for number, limit in zip(numbers, limits, strict=True)):
                raise ScheduleError(
                    f"{schedule.name}: rank {rank} computes {action} in direction {action.direction}; there are "
                    f"{limits[0]} microbatches, {limits[1]} stages and {limits[2]} directions, counted from 0"
                )
            if schedule.rank(action) != rank:
                raise ScheduleError(
                    f"{schedule.name}: rank {rank} computes {action}, which lies on rank {schedule.rank(action)}"
                )


def _check_overlaps(schedule: Schedule) -> None:
    """A step is one action, or two that don't depend on each other: a forward, and a backward of another microbatch."""
    for rank, program in enumerate(schedule.programs):
        for step in program:
            pair = [action.kind for action in step] == [Kind.FORWARD, Kind.BACKWARD]
            if len(step) != 1 and not (pair and step[0].microbatch != step[1].microbatch):
                raise ScheduleError(
                    f"{schedule.name}: rank {rank} has the step {describe(step) or '(nothing)'}; a step is one action, "
                    f"or a forward and then a whole backward of another microbatch"
                )


def _check_complete(schedule: Schedule) -> None:
    done: dict[tuple[int, int], list[str]] = {}
    directions: dict[int, set[int]] = {}
    for rank in range(schedule.ranks):
        for action in schedule.actions(rank):
            done.setdefault((action.microbatch, action.stage), []).append(action.kind.value)
            directions.setdefault(action.microbatch, set()).add(action.direction)
    for microbatch in range(schedule.microbatches):
        if len(directions.get(microbatch, ())) > 1:
            raise ScheduleError(f"{schedule.name}: microbatch {microbatch} goes in more than one direction")
        for stage in range(schedule.stages):
            kinds = "".join(sorted(done.get((microbatch, stage), ())))
            if kinds not in ("BF", "FIW"):
                raise ScheduleError(
                    f"{schedule.name}: microbatch {microbatch} on stage {stage} has the actions "
                    f"{' '.join(kinds) or '(none)'}; wanted F and B once each, or F, I and W once each"
                )
