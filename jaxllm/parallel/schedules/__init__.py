"""Pipeline schedules as data: what each rank computes, in which order."""

from __future__ import annotations

from collections.abc import Callable

from jaxllm.parallel.schedules.both_directions import dualpipe, dualpipe_v
from jaxllm.parallel.schedules.one_direction import gpipe, interleaved, one_forward_one_backward
from jaxllm.parallel.schedules.schedule import Action, Kind, Schedule, ScheduleError, Step, describe
from jaxllm.parallel.schedules.ticks import ticks
from jaxllm.parallel.schedules.zero_bubble import zb_h1, zb_h2, zb_v

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "interleaved": interleaved,
    "zb-h1": zb_h1,
    "zb-h2": zb_h2,
    "zbv": zb_v,
    "dualpipe": dualpipe,
    "dualpipe-v": dualpipe_v,
}


def build_schedule(name: str, ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """A schedule by its name in SCHEDULES. `chunks`, the stages a rank holds, is read by `interleaved` alone.

    Raises ValueError for a name that is not there and for counts that the schedule does not work with.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; use one of {', '.join(SCHEDULES)}")
    if name == "interleaved":
        return interleaved(ranks, microbatches, chunks)
    return SCHEDULES[name](ranks, microbatches)


__all__ = [
    "SCHEDULES",
    "Action",
    "Kind",
    "Schedule",
    "ScheduleError",
    "Step",
    "build_schedule",
    "describe",
    "dualpipe",
    "dualpipe_v",
    "gpipe",
    "interleaved",
    "one_forward_one_backward",
    "ticks",
    "zb_h1",
    "zb_h2",
    "zb_v",
]
