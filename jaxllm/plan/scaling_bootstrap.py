"""How sure a fitted law is: fits to resampled runs, and what they say of a run that was not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxllm.plan.scaling_fits import FORMS, Fit, Problem
from jaxllm.plan.scaling_laws import ScalingLaw

MOST_DROPPED = 0.5


@dataclass(frozen=True)
class Interval:
    """From the lower to the upper end of the middle `level` of what resampled runs gave."""

    low: float
    high: float
    level: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Bootstrap:
    """A fit, and the laws that resampled runs gave."""

    fit: Fit
    laws: tuple[ScalingLaw, ...]
    dropped: int
    """Samples that gave none: too few different runs, or a loss that does not fall."""
    seed: int

    def interval(self, quantity: Callable[[ScalingLaw], float], level: float = 0.95) -> Interval:
        """Of anything that follows from a law: `lambda law: law.alpha`, `lambda law: law.optimal(C).parameters`."""
        return percentiles([quantity(law) for law in self.laws], level)

    def deviation(self, quantity: Callable[[ScalingLaw], float]) -> float:
        """Standard error."""
        return float(np.std([quantity(law) for law in self.laws], ddof=1))


@dataclass(frozen=True)
class Prediction:
    """The loss that a run will have, with an interval that allows for the law's numbers and for the run's own luck."""

    parameters: float
    tokens: float
    loss: float
    interval: Interval
    beyond: float
    """How many times outside of the fitted sizes, texts or computes (N D), whichever is most; 1 inside of all."""

    @property
    def extrapolated(self) -> bool:
        return self.beyond > 1 + 1e-9


def bootstrap(fit: Fit, samples: int = 500, seed: int = 0) -> Bootstrap:
    """Fit the same kind of law to `samples` draws of the runs with replacement (Efron 1979).

    Equal seeds give equal laws. Raises ValueError where most samples give no law: the runs are too few or too alike.
    """
    if samples < 2:
        raise ValueError(f"an interval needs 2 samples or more, got {samples}")
    form, count = FORMS[fit.kind], len(fit.runs)
    random = np.random.default_rng(seed)
    weights = random.multinomial(count, np.full(count, 1 / count), size=samples).astype(np.float64)
    problem = Problem(form, fit.runs)
    # The law of all runs is near most samples' own; the others are for those that it misleads.
    others = problem.starts()
    starts = [fit.at, *others[:: max(1, len(others) // 2)][:2]]
    many = np.repeat(np.stack(starts), samples, axis=0)
    x, value, _ = problem.solve(many, np.tile(weights, (len(starts), 1)))
    best = np.argmin(value.reshape(len(starts), samples), axis=0)
    x = x.reshape(len(starts), samples, -1)[best, np.arange(samples)]
    different = (weights > 0).sum(axis=1)
    laws = [problem.law(x[i]) if different[i] > form.numbers else None for i in range(samples)]
    kept = tuple(law for law in laws if law is not None)
    if len(kept) < (1 - MOST_DROPPED) * samples:
        raise ValueError(
            f"{samples - len(kept)} of {samples} resampled sets of the {count} runs give no {fit.kind} law, so no "
            "interval can be said: train more runs, of more different sizes and texts"
        )
    return Bootstrap(fit, kept, samples - len(kept), seed)


def predict(boot: Bootstrap, parameters: float, tokens: float, level: float = 0.95) -> Prediction:
    """The loss of a run that was not fitted. Each resampled law speaks once, with the deviation of one of the runs."""
    fit = boot.fit
    # A fit comes closer to its own runs than to others, by the numbers that it was free to choose.
    free = len(fit.runs) - FORMS[fit.kind].numbers
    residuals = fit.residuals() * math.sqrt(len(fit.runs) / free)
    luck = np.random.default_rng(boot.seed + 1).choice(residuals, size=len(boot.laws))
    said = np.array([law.loss(parameters, tokens) for law in boot.laws]) * np.exp(luck)
    beyond = max(fit.parameters.beyond(parameters), fit.tokens.beyond(tokens), fit.products.beyond(parameters * tokens))
    return Prediction(parameters, tokens, fit.law.loss(parameters, tokens), percentiles(said, level), beyond)


def percentiles(values, level: float) -> Interval:
    """Raises ValueError for a level that is no part of all."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
    low, high = np.quantile(np.asarray(values, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
