"""A scaling law as a picture: loss against compute with the fitted frontier, and the runs of each budget by size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.pictures import picture
from jaxllm.plan.scaling_bootstrap import Prediction
from jaxllm.plan.scaling_fits import Fit
from jaxllm.plan.scaling_frontier import Frontier, Parabola
from jaxllm.plan.scaling_laws import UNITS, Range, ScalingRun

POINTS = 200
FURTHER = 30.0  # times the largest compute: how far the frontier is drawn beyond it
LINE, HELD_OUT = "#222222", "#c0392b"


def draw_scaling(
    fit: Fit,
    path: str | Path,
    *,
    isoflop: Frontier | None = None,
    held_out: Sequence[tuple[ScalingRun, Prediction]] = (),
    title: str = "",
) -> Path:
    """Draw a fit into a .svg, .png or .pdf file.

    Left: every run's loss over its compute, coloured by its size, and the least loss that the law says compute can buy,
    dashed where it is an extrapolation; runs that were held out with what was predicted of them. With the frontier of
    iso-FLOP runs, in the middle each budget's runs, parabola and minimum, and at the right the best size over compute.
    Raises ValueError for another ending, and where the file can't be written.
    """
    count = 3 if isoflop else 1
    with picture(path, 1 + 5 * count, 4.6) as figure:
        axes = figure.subplots(1, count, squeeze=False)[0]
        _draw_loss(figure, axes[0], fit, held_out)
        if isoflop:
            _draw_parabolas(axes[1], isoflop, UNITS[fit.runs[0].unit])
            _draw_sizes(axes[2], fit, isoflop)
        figure.suptitle(title)
    return Path(path)


def _draw_loss(figure: Any, axis: Any, fit: Fit, held_out: Sequence[tuple[ScalingRun, Prediction]]) -> None:
    from matplotlib.colors import LogNorm

    runs, sizes = fit.runs, fit.parameters
    # One size alone has a colour too.
    norm = LogNorm(sizes.low / 1.01, sizes.high * 1.01)
    points = axis.scatter(
        [run.flops for run in runs], [run.loss for run in runs], c=[run.parameters for run in runs], norm=norm, s=16
    )
    figure.colorbar(points, ax=axis, label="parameters")
    furthest = max([run.flops for run, _ in held_out], default=fit.flops.high)
    end = max(fit.flops.high * FURTHER, furthest * 2)
    losses = lambda flops: [_least_loss(fit, c) for c in flops]  # noqa: E731
    _line_with_extrapolation(axis, fit.flops, end, losses, f"{fit.kind} law")
    for i, (run, prediction) in enumerate(held_out):
        low, high = prediction.interval.low, prediction.interval.high
        label = f"held out, {prediction.interval.level:.0%} predicted" if i == 0 else None
        axis.plot([run.flops] * 2, [low, high], color=HELD_OUT, linewidth=1.5, label=label)
        axis.plot([run.flops], [run.loss], marker="D", markersize=4, color=HELD_OUT, linestyle="")
    axis.set_xscale("log")
    axis.set_xlabel("compute (FLOP)")
    axis.set_ylabel(f"loss ({UNITS[runs[0].unit]})")
    axis.legend(frameon=False, fontsize=8)


def _least_loss(fit: Fit, flops: float) -> float:
    if hasattr(fit.law, "optimal"):
        return fit.law.optimal(flops, fit.factor).loss
    return fit.law.loss(1.0, flops / fit.factor)  # of N D alone


def _line_with_extrapolation(axis: Any, seen: Range, end: float, values: Any, label: str) -> None:
    inside, outside = np.geomspace(seen.low, seen.high, POINTS), np.geomspace(seen.high, end, POINTS)
    axis.plot(inside, values(inside), color=LINE, label=label)
    axis.plot(outside, values(outside), color=LINE, linestyle="--", label="extrapolated")


def _draw_parabolas(axis: Any, frontier: Frontier, unit: str) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.0, 0.9, len(frontier.parabolas)))
    for parabola, colour in zip(frontier.parabolas, colours, strict=True):
        label = f"{parabola.flops:.2g}" + ("" if parabola.enclosed else " (no minimum inside)")
        axis.plot(
            [run.parameters for run in parabola.runs],
            [run.loss for run in parabola.runs],
            marker="o",
            markersize=3.5,
            linestyle="",
            color=colour,
            label=label,
        )
        _draw_parabola(axis, parabola, colour)
    axis.set_xscale("log")
    axis.set_xlabel("parameters")
    axis.set_ylabel(f"loss ({unit})")
    axis.legend(frameon=False, fontsize=7, title="FLOP", title_fontsize=8)


def _draw_parabola(axis: Any, parabola: Parabola, colour: Any) -> None:
    if not math.isfinite(parabola.loss):
        return  # a straight line
    sizes = np.geomspace(parabola.sizes.low, parabola.sizes.high, POINTS)
    axis.plot(sizes, [parabola(size) for size in sizes], color=colour, linewidth=1)
    if parabola.enclosed:
        axis.plot([parabola.parameters], [parabola.loss], marker="*", markersize=9, color=LINE, linestyle="")


def _draw_sizes(axis: Any, fit: Fit, frontier: Frontier) -> None:
    good = [p for p in frontier.parabolas if p.enclosed]
    axis.plot([p.flops for p in good], [p.parameters for p in good], marker="*", markersize=9, color=LINE, linestyle="")
    grid = np.geomspace(frontier.flops.low, frontier.flops.high * FURTHER, POINTS)
    law = frontier.parameters
    axis.plot(grid, [law(c) for c in grid], label=f"parabolas: C^{law.exponent:.3f}")
    if hasattr(fit.law, "optimal"):
        best = [fit.law.optimal(c, fit.factor).parameters for c in grid]
        axis.plot(grid, best, label=f"{fit.kind} law: C^{math.log(best[-1] / best[0], grid[-1] / grid[0]):.3f}")
    axis.axvspan(frontier.flops.high, grid[-1], color="#eeeeee", zorder=0, label="extrapolated")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("compute (FLOP)")
    axis.set_ylabel("best size (parameters)")
    axis.legend(frameon=False, fontsize=8)
