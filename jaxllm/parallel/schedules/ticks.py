"""A schedule in lock step: in each tick every rank does at most one step, and results travel between ticks."""

from __future__ import annotations

from jaxllm.parallel.schedules.schedule import Action, Schedule, ScheduleError, Step, describe


def ticks(schedule: Schedule) -> tuple[tuple[Step | None, ...], ...]:
    """The step of each rank in each tick, None where it idles: as early as the order on every rank allows.

    A step reads only what earlier ticks computed, or earlier steps of its own rank. This is what a program that runs
    the same instructions on all devices needs: one table, indexed by [tick][rank]. Raises ScheduleError where ranks
    wait for each other, and names what each waits for.
    """
    next_step = [0] * schedule.ranks
    done: set[Action] = set()
    table = []
    while any(at < len(program) for at, program in zip(next_step, schedule.programs, strict=True)):
        row: list[Step | None] = []
        for rank, program in enumerate(schedule.programs):
            step = program[next_step[rank]] if next_step[rank] < len(program) else None
            row.append(None if step is None or missing(schedule, step, done) else step)
        if not any(row):
            raise deadlock(schedule, next_step, done)
        for rank, step in enumerate(row):
            if step is not None:
                done.update(step)
                next_step[rank] += 1
        table.append(tuple(row))
    return tuple(table)


def missing(schedule: Schedule, step: Step, done: set[Action]) -> list[Action]:
    """What a step reads that is not there yet."""
    return [needed for action in step for needed in schedule.needs(action) if needed not in done]


def deadlock(schedule: Schedule, next_step: list[int], done: set[Action]) -> ScheduleError:
    """The error that says what each rank waits for."""
    waiting = []
    for rank, program in enumerate(schedule.programs):
        if next_step[rank] < len(program):
            step = program[next_step[rank]]
            wanted = ", ".join(map(str, missing(schedule, step, done)))
            waiting.append(f"rank {rank} before {describe(step)} for {wanted}")
    return ScheduleError(f"{schedule.name}: the ranks wait for each other: {'; '.join(waiting)}")
