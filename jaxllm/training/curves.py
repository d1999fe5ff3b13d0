"""Curves of runs as a picture: what a report shows and `jaxllm plot` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.pictures import check_ending, picture
from jaxllm.training.amounts import short_count
from jaxllm.training.history import History

# quantity -> (label, unit); the same unit means the same panel.
QUANTITIES = {
    "loss": ("training loss", "loss in nats per token"),
    "val_loss": ("validation loss", "loss in nats per token"),
    "val_bpb": ("validation", "validation bits per byte"),
    "learning_rate": ("learning rate", "learning rate"),
    "grad_norm": ("gradient norm", "gradient norm before clipping"),
    "accuracy": ("training accuracy", "share of tokens predicted"),
    "tokens_per_second": ("training speed", "tokens per second"),
    "mfu": ("model FLOPs utilization", "share of peak FLOPs"),
}
ALONG = ("step", "tokens", "seconds")

# Okabe and Ito's palette, told apart by colour-blind readers too; its yellow is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#666666"
DIRECTLY_LABELLED = 6  # more lines than this in a panel are told apart by a legend

# Logged at every step, these jump from batch to batch: a smooth line is drawn over the faint raw one.
NOISY = ("loss", "grad_norm", "accuracy", "tokens_per_second", "mfu")
SOLID = {"linewidth": 1.8}
DASHED = {"linewidth": 1.4, "linestyle": (0, (4, 2)), "marker": "o", "markersize": 3.5}
STYLES = {"val_loss": DASHED, "val_bpb": DASHED}


def draw_curves(
    histories: Mapping[str, History],
    path: str | Path,
    *,
    x: str = "step",
    y: Sequence[str] = ("loss", "val_loss"),
    title: str = "",
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Draw `y` of each run along "step", "tokens" or "seconds" into a picture, a panel for each unit; returns its path.

    `levels` adds labelled horizontal lines to the panel of a quantity: {"val_bpb": {"order-3 n-gram": 2.1}}. Quantities
    that no run has yet are left out. Raises ValueError on an unknown quantity or file format, when nothing is left to
    draw, and when the file can't be written.
    """
    path = Path(path)
    check_ending(path)
    unknown = [name for name in y if name not in QUANTITIES]
    if unknown or x not in ALONG:
        raise ValueError(
            f"can't draw {', '.join(unknown)} along {x}: choose from {', '.join(QUANTITIES)} along {', '.join(ALONG)}"
        )
    series = _series(histories, x, y)
    if not series:
        raise ValueError(f"there is no {' and no '.join(y)} to draw yet in {', '.join(histories)}")
    scale, x_label = _x_axis(x, series)
    panels = list(dict.fromkeys(QUANTITIES[quantity][1] for quantity in y if any(q == quantity for _, q in series)))

    with picture(path, 8, 1.2 + 3.2 * len(panels)) as figure:
        figure.suptitle(title or _default_title(histories), fontsize=12, fontweight="bold")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        colours = _colours(list(histories))
        for axis, unit in zip(axes, panels, strict=True):
            lines = {key: (xs * scale, ys) for key, (xs, ys) in series.items() if QUANTITIES[key[1]][1] == unit}
            _draw_panel(axis, unit, lines, colours)
            if x != "seconds":
                axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if x == "step" else short_count(value))
            for quantity, marks in (levels or {}).items():
                if QUANTITIES[quantity][1] == unit:
                    _draw_levels(axis, marks)
        axes[-1].set_xlabel(x_label)
        figure.align_ylabels()
    return path


Lines = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # (run, quantity) -> (x, y)


def _series(histories: Mapping[str, History], x: str, y: Sequence[str]) -> Lines:
    along = "elapsed" if x == "seconds" else x
    found = {(name, quantity): history.series(quantity, along) for name, history in histories.items() for quantity in y}
    return {key: (xs, ys) for key, (xs, ys) in found.items() if np.isfinite(xs + ys).any()}


def _x_axis(x: str, series: Lines) -> tuple[float, str]:
    """(factor to the unit shown, axis label): seconds turn into the unit in which the longest run is some tens."""
    if x == "step":
        return 1.0, "optimizer step"
    if x == "tokens":
        return 1.0, "training tokens"
    longest = max(float(np.nanmax(xs)) for xs, _ in series.values())
    for unit, seconds in (("hours", 3600.0), ("minutes", 60.0)):
        if longest >= 3 * seconds:
            return 1 / seconds, f"{unit} of training"
    return 1.0, "seconds of training"


def _default_title(histories: Mapping[str, History]) -> str:
    return ", ".join(histories) if len(histories) <= 3 else f"{len(histories)} runs"


def _colours(runs: Sequence[str]) -> dict[str, Any]:
    if len(runs) <= len(COLOURS):
        return dict(zip(runs, COLOURS, strict=False))
    from matplotlib import colormaps

    return dict(zip(runs, colormaps["turbo"](np.linspace(0.05, 0.95, len(runs))), strict=True))


def _draw_panel(axis: Any, unit: str, lines: Lines, colours: Mapping[str, str]) -> None:
    quantities = list(dict.fromkeys(quantity for _, quantity in lines))
    runs = list(dict.fromkeys(run for run, _ in lines))
    ends = {}
    for (run, quantity), (xs, ys) in lines.items():
        colour = colours[run] if len(runs) > 1 else COLOURS[quantities.index(quantity)]
        x, y = _draw_line(axis, quantity, xs, ys, colour)
        # A run has one label, at its last quantity; a single run has one for each quantity.
        name = run if len(runs) > 1 else QUANTITIES[quantity][0] if len(quantities) > 1 else ""
        ends[name] = (x, y, colour)
    _dress(axis, unit)
    if len(runs) > 1 and len(quantities) > 1:
        _explain_styles(axis, quantities)
    if len(ends) <= DIRECTLY_LABELLED:
        _label_ends(axis, ends)
    else:
        _add_legend(
            axis, {name: {"color": colour} for name, (_, _, colour) in ends.items()}, loc="upper right", ncols=2
        )


def _draw_line(axis: Any, quantity: str, xs: np.ndarray, ys: np.ndarray, colour: str) -> tuple[float, float]:
    """Draws one curve; returns the point where it ends."""
    if quantity in NOISY:
        axis.plot(xs, ys, color=colour, linewidth=0.6, alpha=0.2)
        ys = smooth(ys)
    axis.plot(xs, ys, color=colour, **STYLES.get(quantity, SOLID))
    last = np.flatnonzero(np.isfinite(xs + ys))[-1]
    return float(xs[last]), float(ys[last])


def _dress(axis: Any, unit: str) -> None:
    from matplotlib.ticker import LogLocator, PercentFormatter

    axis.set_ylabel(unit)
    axis.margins(x=0.01)
    axis.grid(color="#e5e5e5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if unit == QUANTITIES["grad_norm"][1]:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    elif unit == QUANTITIES["tokens_per_second"][1]:
        axis.yaxis.set_major_formatter(lambda value, _: short_count(value))
    elif unit in (QUANTITIES["mfu"][1], QUANTITIES["accuracy"][1]):
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))


def _explain_styles(axis: Any, quantities: Sequence[str]) -> None:
    styles = {QUANTITIES[q][0]: {**STYLES.get(q, SOLID), "color": GREY} for q in quantities}
    axis.add_artist(_add_legend(axis, styles, loc="upper center"))  # or a second legend would take its place


def _add_legend(axis: Any, styles: Mapping[str, Mapping[str, Any]], **place: Any) -> Any:
    from matplotlib.lines import Line2D

    return axis.legend(
        [Line2D([], [], **style) for style in styles.values()], styles, frameon=False, fontsize=9, **place
    )


def smooth(ys: np.ndarray) -> np.ndarray:
    """A Gaussian mean over neighbours, 1% of the curve wide, [N] -> [N]. Non-finite values stay out of it, as gaps.

    Centred, unlike a moving average, so that the line neither lags behind the loss nor starts at its first noisy value.
    """
    width = len(ys) / 100
    if width < 0.5:
        return ys
    reach = int(np.ceil(3 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    finite = np.isfinite(ys)
    # Weights outside the curve and at gaps are zero, so dividing by their sum keeps a constant constant.
    total = np.convolve(np.where(finite, ys, 0.0), kernel, mode="full")[reach : reach + len(ys)]
    weight = np.convolve(finite.astype(float), kernel, mode="full")[reach : reach + len(ys)]
    return np.where(finite, total / np.where(finite, weight, 1.0), np.nan)


def _label_ends(axis: Any, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Each curve's name and last value beside the panel, moved apart where they would overlap."""
    axis.get_ylim()  # settles the limits, which the heights below depend on
    to_panel = axis.transData + axis.transAxes.inverted()
    heights = [to_panel.transform((x, y))[1] for x, y, _ in ends.values()]
    for (name, (_, y, colour)), height in zip(ends.items(), spread(heights, 0.065), strict=True):
        axis.annotate(
            f"{name} {y:.4g}".strip(),
            xy=(1.0, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            verticalalignment="center",
            annotation_clip=False,
        )


def spread(heights: Sequence[float], spacing: float) -> list[float]:
    """Heights at least `spacing` apart, each group that was crowded centred on where it wants to be."""
    groups: list[list[int]] = []
    starts: list[float] = []  # the height of each group's lowest member
    for index in np.argsort(heights, kind="stable"):
        group, start = [int(index)], heights[index]
        while groups and starts[-1] + len(groups[-1]) * spacing > start:
            group = groups.pop() + group
            starts.pop()
            start = float(np.mean([heights[member] for member in group])) - spacing * (len(group) - 1) / 2
        groups.append(group)
        starts.append(start)
    placed = {}
    for group, start in zip(groups, starts, strict=True):
        placed.update({member: start + spacing * place for place, member in enumerate(group)})
    return [placed[index] for index in range(len(heights))]


def _draw_levels(axis: Any, marks: Mapping[str, float]) -> None:
    for label, value in marks.items():
        axis.axhline(value, color=GREY, linewidth=1.0, linestyle=":")
        axis.annotate(
            f"{label} {value:.4g}",
            xy=(1.0, value),
            xycoords=axis.get_yaxis_transform(),
            xytext=(-4, 3),
            textcoords="offset points",
            color=GREY,
            fontsize=9,
            horizontalalignment="right",
        )
