"""Laws from runs: the numbers that make a law's losses those of the runs.

As Hoffmann et al. 2022 do in their third way (appendix D.3): the Huber loss of the difference of logarithms, which
takes no single run too seriously, is minimized from many starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from jaxllm.plan.quasi_newton import minimize
from jaxllm.plan.scaling_laws import (
    ChinchillaLaw,
    ComputeLaw,
    KaplanLaw,
    Range,
    ScalingLaw,
    ScalingRun,
    check_runs,
    columns,
    flops_factor,
)

DELTA = 1e-3
"""Differences of logarithms beyond which the loss grows linearly only (Hoffmann et al. 2022)."""

SHARES = (0.2, 0.5, 0.8, 0.95)  # of the lowest loss: where E may begin
POWERS = (0.1, 0.25, 0.5, 1.0)  # where exponents may begin
STEEPEST = 5.0  # an exponent above it is a jump between two groups of runs, and no law
SAME = 0.01  # spread of logarithms below which sizes, texts or ratios are one and the same

Prediction = tuple[np.ndarray, np.ndarray]  # log L [S, R] and its derivatives [S, R, P]


@dataclass(frozen=True)
class Fit:
    """A law, and what it was fitted to."""

    law: ScalingLaw
    runs: tuple[ScalingRun, ...]
    objective: float
    """Sum of Huber losses over the runs."""
    kind: str
    at: np.ndarray = field(repr=False, compare=False)
    """Where the minimum is, in the coordinates of the fit: a start for fits to resampled runs."""
    starts_agreeing: float = 1.0
    """Part of the starts that led to this minimum."""

    @property
    def parameters(self) -> Range:
        return _range([run.parameters for run in self.runs])

    @property
    def tokens(self) -> Range:
        return _range([run.tokens for run in self.runs])

    @property
    def flops(self) -> Range:
        return _range([run.flops for run in self.runs])

    @property
    def products(self) -> Range:
        """N D: compute but for the factor."""
        return _range([run.parameters * run.tokens for run in self.runs])

    @property
    def factor(self) -> float:
        """k of C = k N D among these runs."""
        return flops_factor(self.runs)

    def residuals(self) -> np.ndarray:
        """log L - log of the law's, [runs]."""
        return np.array([math.log(run.loss / self.law.loss(run.parameters, run.tokens)) for run in self.runs])


def fit_chinchilla(runs: Sequence[ScalingRun], delta: float = DELTA) -> Fit:
    """L = E + A / N^alpha + B / D^beta. Raises ValueError as `check_runs` does, and for runs that can't tell its terms
    apart: of one size, on one amount of text, or all with one number of tokens per parameter."""
    return fit("chinchilla", runs, delta)


def fit_kaplan(runs: Sequence[ScalingRun], delta: float = DELTA) -> Fit:
    """L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D. Raises as `fit_chinchilla` does."""
    return fit("kaplan", runs, delta)


def fit_compute(runs: Sequence[ScalingRun], delta: float = DELTA) -> Fit:
    """L = E + K / (N D)^gamma, for ladders with one number of tokens per parameter. Raises ValueError as `check_runs`
    does, and for runs of one compute."""
    return fit("compute", runs, delta)


def fit(kind: str, runs: Sequence[ScalingRun], delta: float = DELTA) -> Fit:
    """The law of that kind, "chinchilla", "kaplan" or "compute". Raises ValueError where it can't be told from the
    runs, or where the loss turns out not to fall."""
    form = _form(kind)
    _check(form, runs)
    problem = Problem(form, runs, delta)
    x, value, _ = problem.solve(problem.starts())
    best = int(np.argmin(value))
    law = problem.law(x[best])
    if law is None:
        raise ValueError(
            f"no {kind} law describes these runs: their losses do not fall with size and text alike; look for runs "
            "that failed, or widen the range of sizes and of texts"
        )
    agreeing = float(np.mean(value < value[best] * (1 + 1e-3) + 1e-12))
    return Fit(law, tuple(runs), float(value[best]) * problem.scale, kind, x[best], agreeing)


@dataclass(frozen=True)
class Form:
    """A kind of law in coordinates that a minimizer gets along with."""

    name: str
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], Prediction]
    """(x [S, P], n [R], d [R]) -> log L and its derivatives; n and d are logarithms, less their means."""
    law: Callable[[np.ndarray, float, float], ScalingLaw | None]
    """(x [P], mean of log N, mean of log D) -> the law; None where an exponent is not positive, or past measure."""
    starts: Callable[[float, float], np.ndarray]
    """(lowest loss, loss in the middle) -> [S, P]"""
    numbers: int


class Problem:
    """The fit of one form to some runs, or to many samples of them at once."""

    def __init__(self, form: Form, runs: Sequence[ScalingRun], delta: float = DELTA):
        N, D, _, L = columns(runs)
        self.form, self.delta = form, delta
        # Centered, a law's level at the middle of the runs and its slopes hardly depend on each other.
        self.centre = float(np.log(N).mean()), float(np.log(D).mean())
        self.n, self.d, self.y = np.log(N) - self.centre[0], np.log(D) - self.centre[1], np.log(L)
        self.scale = delta * len(runs)  # brings the sum of Huber losses near 1, whatever delta is

    def starts(self) -> np.ndarray:
        losses = np.exp(self.y)
        return self.form.starts(float(losses.min()), float(np.median(losses)))

    def solve(self, starts: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """(x, value / scale, converged) from each start [S, P]; weights [S, R] say how often each run counts."""

        def objective(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            predicted, derivatives = self.form.predict(x, self.n, self.d)
            error = predicted - self.y
            size = np.abs(error)
            huber = np.where(size <= self.delta, 0.5 * error**2, self.delta * (size - 0.5 * self.delta))
            slope = np.clip(error, -self.delta, self.delta)
            if weights is not None:
                huber, slope = huber * weights[rows], slope * weights[rows]
            return huber.sum(axis=1) / self.scale, np.einsum("sr,srp->sp", slope, derivatives) / self.scale

        return minimize(objective, starts)

    def law(self, x: np.ndarray) -> ScalingLaw | None:
        return self.form.law(x, *self.centre)


def _sum_of_powers(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log of the sum of exp(terms) over the last axis, and each term's share."""
    top = terms.max(axis=-1, keepdims=True)
    powers = np.exp(terms - top)
    total = powers.sum(axis=-1, keepdims=True)
    return (np.log(total) + top)[..., 0], powers / total


def _chinchilla(x: np.ndarray, n: np.ndarray, d: np.ndarray) -> Prediction:
    """x: log E, log of both terms at the middle, alpha, beta."""
    e, a, b, alpha, beta = (column[:, None] for column in x.T)
    terms = np.stack(np.broadcast_arrays(e, a - alpha * n, b - beta * d), axis=-1)
    value, share = _sum_of_powers(terms)
    slopes = -share[..., 1] * n, -share[..., 2] * d
    return value, np.concatenate([share, np.stack(slopes, axis=-1)], axis=-1)


def _chinchilla_law(x: np.ndarray, n: float, d: float) -> ChinchillaLaw | None:
    e, a, b, alpha, beta = x
    if not (_is_power(alpha) and _is_power(beta)):
        return None
    return ChinchillaLaw(math.exp(e), _exp(a + alpha * n), _exp(b + beta * d), float(alpha), float(beta))


def _chinchilla_starts(lowest: float, middle: float) -> np.ndarray:
    return np.array(
        [
            [math.log(share * lowest), *2 * [math.log((middle - share * lowest) / 2)], alpha, beta]
            for share, alpha, beta in product(SHARES, POWERS, POWERS)
        ]
    )


def _kaplan(x: np.ndarray, n: np.ndarray, d: np.ndarray) -> Prediction:
    """x: log alpha_D, log of both terms at the middle, alpha_N / alpha_D."""
    c, a, b, u = (column[:, None] for column in x.T)
    power = np.exp(c)
    terms = np.stack(np.broadcast_arrays(a - u * n, b - d), axis=-1)
    inner, share = _sum_of_powers(terms)
    value = power * inner
    first, second = power * share[..., 0], power * share[..., 1]
    return value, np.stack([value, first, second, -first * n], axis=-1)


def _kaplan_law(x: np.ndarray, n: float, d: float) -> KaplanLaw | None:
    alpha_D, u = math.exp(x[0]), float(x[3])
    if not _is_power(u):
        return None
    return KaplanLaw(_exp(x[1] / u + n), _exp(x[2] + d), u * alpha_D, alpha_D)


def _kaplan_starts(lowest: float, middle: float) -> np.ndarray:
    # Both terms are alike in the middle, and together make up its loss.
    powers, ratios = (0.05, 0.1, 0.2, 0.4), (0.25, 0.5, 1.0, 2.0)
    return np.array([[math.log(c), *2 * [math.log(middle) / c - math.log(2)], u] for c, u in product(powers, ratios)])


def _compute(x: np.ndarray, n: np.ndarray, d: np.ndarray) -> Prediction:
    """x: log E, log of the other term at the middle, gamma."""
    e, k, gamma = (column[:, None] for column in x.T)
    value, share = _sum_of_powers(np.stack(np.broadcast_arrays(e, k - gamma * (n + d)), axis=-1))
    return value, np.concatenate([share, (-share[..., 1] * (n + d))[..., None]], axis=-1)


def _compute_law(x: np.ndarray, n: float, d: float) -> ComputeLaw | None:
    if not _is_power(x[2]):
        return None
    return ComputeLaw(math.exp(x[0]), _exp(x[1] + x[2] * (n + d)), float(x[2]))


def _compute_starts(lowest: float, middle: float) -> np.ndarray:
    return np.array(
        [
            [math.log(share * lowest), math.log(middle - share * lowest), gamma / 2]
            for share, gamma in product(SHARES, POWERS)
        ]
    )


FORMS = {
    form.name: form
    for form in (
        Form("chinchilla", _chinchilla, _chinchilla_law, _chinchilla_starts, 5),
        Form("kaplan", _kaplan, _kaplan_law, _kaplan_starts, 4),
        Form("compute", _compute, _compute_law, _compute_starts, 3),
    )
}


def _form(kind: str) -> Form:
    if kind not in FORMS:
        raise ValueError(f"there is no law {kind!r} to fit; known: {', '.join(FORMS)}")
    return FORMS[kind]


def _check(form: Form, runs: Sequence[ScalingRun]) -> None:
    # One more run than numbers: what passes through all points says nothing of how well it holds.
    check_runs(runs, form.numbers + 1, f"a {form.name} law of {form.numbers} numbers")
    N, D, _, _ = columns(runs)
    n, d = np.log(N), np.log(D)
    if form.name == "compute":
        if np.std(n + d) < SAME:
            raise ValueError("all runs took the same compute, so how the loss falls with it can't be told")
        return
    for values, what in ((n, "models of one size"), (d, "amounts of text of one length")):
        if np.std(values) < SAME:
            raise ValueError(f"the runs are {what} only, so half of a {form.name} law can't be told: vary it")
    line = np.polyfit(n, d, 1)
    if np.std(d - np.polyval(line, n)) < SAME:
        raise ValueError(
            "the runs' tokens follow from their parameters (one number of tokens per parameter?), so what size does "
            "and what text does can't be told apart: fit a compute law, or train an iso-FLOP ladder"
        )


def _is_power(exponent: float) -> bool:
    return 0 < exponent <= STEEPEST


def _exp(value: float) -> float:
    """exp, infinite rather than an error where a float ends."""
    return math.exp(value) if value < 709 else math.inf


def _range(values: list[float]) -> Range:
    return Range(min(values), max(values))
