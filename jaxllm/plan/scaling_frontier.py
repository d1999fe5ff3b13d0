"""The best that compute buys: read off runs of equal compute, off the lower envelope of all runs, or off a law."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxllm.plan.scaling_bootstrap import Interval, percentiles
from jaxllm.plan.scaling_fits import SAME, Fit
from jaxllm.plan.scaling_laws import Allocation, PowerLaw, Range, ScalingRun, check_runs, columns, flops_factor

TOLERANCE = 0.25
"""Runs whose computes differ by less are of one budget."""


@dataclass(frozen=True)
class Parabola:
    """The runs of one budget, and L = loss + curvature * log(N / parameters)^2 through them."""

    runs: tuple[ScalingRun, ...]
    flops: float
    """The budget: the geometric mean of its runs."""
    parameters: float
    """Where the loss is least, N*."""
    tokens: float
    """What the budget leaves for text at that size, D*."""
    loss: float
    curvature: float

    @property
    def sizes(self) -> Range:
        return Range(min(run.parameters for run in self.runs), max(run.parameters for run in self.runs))

    @property
    def enclosed(self) -> bool:
        """Whether there are smaller and larger models than the best, so that it is no extrapolation."""
        return self.curvature > 0 and self.parameters in self.sizes

    def __call__(self, parameters: float) -> float:
        return self.loss + self.curvature * math.log(parameters / self.parameters) ** 2


@dataclass(frozen=True)
class Frontier:
    """N* and D* as powers of compute."""

    parameters: PowerLaw
    tokens: PowerLaw
    flops: Range
    """Computes that were looked at."""
    parabolas: tuple[Parabola, ...] = ()
    """Of each budget, those left out too."""
    intervals: dict[str, Interval] | None = None
    """Of both exponents, "a" of N* and "b" of D*, where deviations were redrawn."""

    def at(self, flops: float) -> FrontierPoint:
        allocation = Allocation(flops, self.parameters(flops), self.tokens(flops), math.nan)
        return FrontierPoint(allocation, self.flops.beyond(flops))


@dataclass(frozen=True)
class FrontierPoint:
    """The best use of some compute, and whether that is within what was seen."""

    allocation: Allocation
    beyond: float
    """How many times outside of the computes of the runs; 1 inside."""

    @property
    def extrapolated(self) -> bool:
        return self.beyond > 1 + 1e-9


def frontier(fit: Fit, budgets: Iterable[float]) -> tuple[FrontierPoint, ...]:
    """The best use of each compute by a fitted law, with the runs' own operations per parameter and token. Raises
    ValueError for a law that says nothing of allocation."""
    if not hasattr(fit.law, "optimal"):
        raise ValueError(f"a {fit.kind} law holds for one number of tokens per parameter and says no best one")
    return tuple(FrontierPoint(fit.law.optimal(flops, fit.factor), fit.flops.beyond(flops)) for flops in budgets)


def budgets_of(runs: Sequence[ScalingRun], tolerance: float = TOLERANCE) -> tuple[tuple[ScalingRun, ...], ...]:
    """The runs by budget, in ascending order: a new one begins where compute jumps by more than the tolerance."""
    groups: list[list[ScalingRun]] = []
    for run in sorted(runs, key=lambda run: run.flops):
        if groups and run.flops <= groups[-1][-1].flops * (1 + tolerance):
            groups[-1].append(run)
        else:
            groups.append([run])
    return tuple(map(tuple, groups))


def fit_parabola(runs: Sequence[ScalingRun]) -> Parabola:
    """Least squares in log N (Hoffmann et al. 2022, section 3.2). Raises ValueError for fewer than three sizes."""
    check_runs(runs, 3, "a parabola")
    N, _, C, L = columns(runs)
    flops, n = float(np.exp(np.log(C).mean())), np.log(N)
    if _distinct(n) < 3:
        raise ValueError(f"a parabola needs three model sizes; the budget of {flops:.3g} operations has fewer")
    middle = n.mean()
    bend, slope, level = np.polyfit(n - middle, L, 2)
    # A straight line has its minimum at no size at all.
    best = -slope / (2 * bend) if bend else math.inf
    parameters = math.exp(min(700.0, max(-700.0, middle + best)))
    tokens = flops / flops_factor(runs) / parameters
    return Parabola(tuple(runs), flops, parameters, tokens, float(level + slope * best / 2), float(bend))


def fit_isoflop(
    runs: Sequence[ScalingRun], tolerance: float = TOLERANCE, *, samples: int = 0, seed: int = 0, level: float = 0.95
) -> Frontier:
    """N* and D* from the minimum of each budget's parabola: the second way of Hoffmann et al. 2022.

    Budgets with fewer than three sizes are no rows of the ladder and are passed over; those whose minimum lies outside
    of their sizes are reported but not fitted. With `samples`, deviations from the parabolas are redrawn as often, for
    intervals of the exponents. Raises ValueError as `check_runs` does, and where fewer than two budgets are
    left.
    """
    check_runs(runs, 6, "a frontier from parabolas")
    rows = [row for row in budgets_of(runs, tolerance) if _distinct(np.log(columns(row)[0])) >= 3]
    parabolas = tuple(fit_parabola(row) for row in rows)
    found = _through_minima(parabolas)
    if found is None:
        outside = ", ".join(f"{p.flops:.3g}" for p in parabolas if not p.enclosed)
        raise ValueError(
            f"{len(parabolas)} budgets have three sizes or more, and fewer than two of them have their least loss "
            f"between their smallest and largest model{f' (not: {outside})' if outside else ''}: add sizes on either "
            "side, or budgets"
        )
    intervals = _intervals([p for p in parabolas if p.enclosed], samples, seed, level) if samples else None
    budgets = [p.flops for p in parabolas]
    return Frontier(*found, Range(min(budgets), max(budgets)), parabolas, intervals)


def fit_envelope(runs: Sequence[ScalingRun]) -> Frontier:
    """N* and D* from the runs that none beats with as little compute: the first way of Hoffmann et al. 2022, of final
    losses rather than of whole curves. Raises ValueError as `check_runs` does, and where fewer than three are left."""
    check_runs(runs, 3, "an envelope")
    best: list[ScalingRun] = []
    for run in sorted(runs, key=lambda run: (run.flops, run.loss)):
        if not best or run.loss < best[-1].loss:
            best.append(run)
    N, D, C, _ = columns(best)
    if len(best) < 3 or np.std(np.log(C)) < SAME:
        raise ValueError(f"only {len(best)} runs are unbeaten at their compute; an envelope needs three or more")
    return Frontier(power_law(C, N), power_law(C, D), Range(float(C.min()), float(C.max())))


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Least squares in logarithms."""
    exponent, level = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(level)), float(exponent))


def _through_minima(parabolas: Iterable[Parabola]) -> tuple[PowerLaw, PowerLaw] | None:
    good = [p for p in parabolas if p.enclosed]
    if len(good) < 2:
        return None
    flops = [p.flops for p in good]
    return power_law(flops, [p.parameters for p in good]), power_law(flops, [p.tokens for p in good])


def _intervals(parabolas: Sequence[Parabola], samples: int, seed: int, level: float) -> dict[str, Interval]:
    """Rows are too short to draw runs from them, so each row's deviations from its parabola are redrawn."""
    pools = {p.flops: _deviations(p) for p in parabolas if len(p.runs) > 3}
    if not pools:
        raise ValueError("rows of three runs lie on their parabolas, so no interval can be said: train more sizes")
    # A row of three borrows from the others.
    everyones = np.concatenate(list(pools.values()))
    random, exponents = np.random.default_rng(seed), []
    for _ in range(samples):
        drawn = [_redrawn(p, pools.get(p.flops, everyones), random) for p in parabolas]
        found = _through_minima([fit_parabola(row) for row in drawn])
        if found is not None:
            exponents.append([law.exponent for law in found])
    if len(exponents) < samples / 2:
        raise ValueError(
            f"only {len(exponents)} of {samples} redrawn sets of runs have a frontier, so no interval can be said: "
            "train more sizes at each budget"
        )
    a, b = np.array(exponents).T
    return {"a": percentiles(a, level), "b": percentiles(b, level)}


def _deviations(parabola: Parabola) -> np.ndarray:
    """Of its runs' losses, as large as those of runs that it was not fitted to."""
    count = len(parabola.runs)
    found = np.array([run.loss - parabola(run.parameters) for run in parabola.runs])
    return found * math.sqrt(count / (count - 3))


def _redrawn(parabola: Parabola, pool: np.ndarray, random: np.random.Generator) -> list[ScalingRun]:
    return [replace(run, loss=parabola(run.parameters) + random.choice(pool)) for run in parabola.runs]


def _distinct(logarithms: np.ndarray) -> int:
    """How many values there are, those nearer than SAME being one."""
    ordered = np.sort(logarithms)
    return 1 + int(np.sum(np.diff(ordered) > SAME)) if len(ordered) else 0
