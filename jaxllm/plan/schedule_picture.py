"""A picture of simulated pipeline schedules: a row for each rank, time to the right, one box for each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxllm.parallel.schedules import Action, Kind, Schedule
from jaxllm.pictures import check_ending, picture
from jaxllm.plan.schedule_simulation import RankUse, Simulation, Timed

COLOURS = {
    Kind.FORWARD: "#3b6fb6",
    Kind.BACKWARD: "#3f8f5f",
    Kind.INPUT_GRADIENT: "#2a9d9d",
    Kind.WEIGHT_GRADIENT: "#d08a2e",
}
LABELS = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward, whole",
    Kind.INPUT_GRADIENT: "gradient of inputs",
    Kind.WEIGHT_GRADIENT: "gradient of weights",
}
IDLE = "#ececec"
WIDTH = 18.0  # inches
ROW = 0.24  # inches for each rank
PALEST = 0.6  # how far the last of a rank's chunks is mixed with white
NARROWEST_NUMBER = 0.0055  # of the picture's width for each digit; a narrower box goes without its number


def draw_schedules(simulations: Sequence[Simulation], path: str | Path) -> Path:
    """Draw timelines one below another, on one scale of time, into a .svg, .png or .pdf file.

    Colour is the kind of work, and the paler it is, the later the rank's chunk (or the second direction). Numbers are
    microbatches. A forward above a backward in one black frame overlap. What is grey idles. At the right: the
    microbatches that the rank holds at most. Raises ValueError for another ending, and where there is nothing to draw.
    """
    path = Path(path)
    check_ending(path)
    if not simulations:
        raise ValueError("no schedule to draw; give one simulation or more")
    rows = [simulation.schedule.ranks for simulation in simulations]
    with picture(path, WIDTH, sum(ROW * count + 0.55 for count in rows) + 0.6) as figure:
        axes = figure.subplots(len(rows), squeeze=False, height_ratios=[count + 1 for count in rows])[:, 0]
        longest = max(float(simulation.makespan) for simulation in simulations)
        for axis, simulation in zip(axes, simulations, strict=True):
            _draw_one(axis, simulation, longest)
        figure.legend(handles=_legend(simulations), loc="outside lower center", ncols=5, frameon=False)
    return path


def _draw_one(axis: Any, simulation: Simulation, longest: float) -> None:
    schedule = simulation.schedule
    axis.set_title(
        f"{schedule.name}: time {float(simulation.makespan):g}, idle {simulation.idle_share:.1%}, "
        f"overhead {simulation.overhead:.1%}",
        loc="left",
        fontsize=9,
    )
    axis.set_xlim(0, longest * 1.04)
    axis.set_ylim(schedule.ranks - 0.5, -0.5)
    axis.set_yticks(range(schedule.ranks), [f"rank {rank}" for rank in range(schedule.ranks)], fontsize=7)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    for rank, use in enumerate(simulation.ranks):
        _box(axis, 0, float(simulation.makespan), rank - 0.44, 0.88, IDLE)
        axis.text(float(simulation.makespan) + longest * 0.004, rank, _held(use), va="center", fontsize=7)
    for timed in simulation.timeline:
        _draw_step(axis, schedule, timed, longest)


def _draw_step(axis: Any, schedule: Schedule, timed: Timed, longest: float) -> None:
    start, length = float(timed.start), float(timed.end - timed.start)
    height = 0.88 / len(timed.step)
    for i, action in enumerate(timed.step):
        top = timed.rank - 0.44 + i * height
        face = colour(schedule, action)
        _box(axis, start, length, top, height, face)
        number = str(action.microbatch)
        if length / longest > NARROWEST_NUMBER * len(number):
            dark = sum(_channels(face)) < 1.7
            axis.text(
                start + length / 2,
                top + height / 2,
                number,
                ha="center",
                va="center_baseline",
                fontsize=6.5 if len(timed.step) == 1 else 5,
                color="white" if dark else "black",
            )
    if len(timed.step) > 1:
        _box(axis, start, length, timed.rank - 0.44, 0.88, "none", edge="black")


def colour(schedule: Schedule, action: Action) -> str:
    """The colour of an action's box: its kind's, paler for later chunks of its rank."""
    chunks = schedule.chunks[schedule.rank(action)]
    if schedule.directions > 1:
        pale = PALEST * action.direction
    else:
        pale = PALEST * schedule.chunk(action) / max(1, len(chunks) - 1)
    mixed = (channel + (1 - channel) * pale for channel in _channels(COLOURS[action.kind]))
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in mixed)


def _channels(colour: str) -> tuple[float, ...]:
    """Red, green and blue between 0 and 1, of #rrggbb."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _box(axis: Any, x: float, width: float, y: float, height: float, face: str, edge: str = "white") -> None:
    from matplotlib.patches import Rectangle

    above = 2 if face == "none" else 1  # a frame is not covered by the next step's box
    axis.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=0.7, zorder=above))


def _held(use: RankUse) -> str:
    return f"{float(use.peak_activations):g}"


def _legend(simulations: Sequence[Simulation]) -> list[Any]:
    from matplotlib.patches import Patch

    schedules = [simulation.schedule for simulation in simulations]
    seen = {
        action.kind for schedule in schedules for rank in range(schedule.ranks) for action in schedule.actions(rank)
    }
    handles = [Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in Kind if kind in seen]
    return [*handles, Patch(color=IDLE, label="idle")]
