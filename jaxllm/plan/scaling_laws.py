"""Scaling laws as values: what a loss is expected to be, and how to spend compute by it.

N parameters, D tokens, C operations to train; C = k N D, where k is 6 for large models (Kaplan et al. 2020, section
2.1). Losses are in the unit of the runs that a law was fitted to: nats per token, or bits per byte.

Sources: Kaplan et al. 2020 (arXiv 2001.08361), Hoffmann et al. 2022 (arXiv 2203.15556), Besiroglu et al. 2024 (arXiv
2404.10102).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Unit = Literal["nats_per_token", "bits_per_byte"]
UNITS: dict[str, str] = {"nats_per_token": "nats per token", "bits_per_byte": "bits per byte"}

# Operations per parameter and token, forward and backward.
FLOPS_FACTOR = 6.0


@dataclass(frozen=True)
class ScalingRun:
    """One trained model, at its end."""

    parameters: float
    """N; active ones, where a token does not meet all."""
    tokens: float
    """D that it was trained on."""
    flops: float
    """C that this took."""
    loss: float
    """On validation text that all runs share."""
    name: str = ""
    unit: Unit = "nats_per_token"
    """Of the loss."""
    tokenizer: str = ""
    """Fingerprint, where it is known."""


class ScalingLaw(Protocol):
    """An expected loss."""

    def loss(self, parameters: float, tokens: float) -> float: ...


class AllocatingLaw(ScalingLaw, Protocol):
    def optimal(self, flops: float, factor: float = FLOPS_FACTOR) -> Allocation: ...


@dataclass(frozen=True)
class Allocation:
    """The model and the text that make the most of some compute."""

    flops: float
    parameters: float
    tokens: float
    loss: float

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters


@dataclass(frozen=True)
class ChinchillaLaw:
    """L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2)."""

    E: float
    """What no model gets below: the entropy of the text."""
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + _term(self.A, parameters, self.alpha) + _term(self.B, tokens, self.beta)

    def optimal(self, flops: float, factor: float = FLOPS_FACTOR) -> Allocation:
        """In closed form (Hoffmann et al. 2022, equation 4): N* = G (C/k)^a with a = beta / (alpha + beta), D* = (C/k)
        / N*, G = (alpha A / (beta B))^(1 / (alpha + beta))."""
        parameters = _best_size(self.A, self.alpha, self.B, self.beta, flops / factor)
        tokens = flops / factor / parameters
        return Allocation(flops, parameters, tokens, self.loss(parameters, tokens))

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of N* ~ C^a and D* ~ C^b."""
        a = self.beta / (self.alpha + self.beta)
        return a, 1 - a


@dataclass(frozen=True)
class KaplanLaw:
    """L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, equation 1.5).

    There N leaves embeddings out, and D is the text that a model was trained on until it got no better.
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    def loss(self, parameters: float, tokens: float) -> float:
        return ((self.N_c / parameters) ** (self.alpha_N / self.alpha_D) + self.D_c / tokens) ** self.alpha_D

    def optimal(self, flops: float, factor: float = FLOPS_FACTOR) -> Allocation:
        """In closed form: what is in brackets is least where Chinchilla's law with E = 0, beta = 1 is.

        It is not the paper's N ~ C^0.73, which comes from stopping runs long before they have seen their text.
        """
        power = self.alpha_N / self.alpha_D
        parameters = _best_size(self.N_c**power, power, self.D_c, 1.0, flops / factor)
        tokens = flops / factor / parameters
        return Allocation(flops, parameters, tokens, self.loss(parameters, tokens))


@dataclass(frozen=True)
class ComputeLaw:
    """L = E + K / (N D)^gamma: all that a ladder with one number of tokens per parameter can tell.

    N D is compute but for the factor k. It holds for models at that ratio only, so it allocates nothing.
    """

    E: float
    K: float
    gamma: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + _term(self.K, parameters * tokens, self.gamma)


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent."""

    coefficient: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.coefficient * x**self.exponent


def _term(coefficient: float, x: float, exponent: float) -> float:
    """coefficient / x^exponent, which may be small where x^exponent is beyond what a float can hold."""
    return math.exp(math.log(coefficient) - exponent * math.log(x))


def _best_size(A: float, alpha: float, B: float, beta: float, product: float) -> float:
    """N that makes A / N^alpha + B / (product / N)^beta least."""
    # In logarithms, since B alone may be beyond what a float can hold to some power.
    log_G = (math.log(alpha * A) - math.log(beta * B)) / (alpha + beta)
    return math.exp(log_G + beta / (alpha + beta) * math.log(product))


PUBLISHED: dict[str, ChinchillaLaw | KaplanLaw] = {
    "hoffmann2022": ChinchillaLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    "besiroglu2024": ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    "kaplan2020": KaplanLaw(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103),
}
"""As printed: Hoffmann et al. 2022, equation 10; Besiroglu et al. 2024; Kaplan et al. 2020, table 2. The first is at
odds with the other two ways of its own paper (see docs/scaling_laws.md)."""


@dataclass(frozen=True)
class Range:
    """From the smallest to the largest that was seen; what lies outside is an extrapolation."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        # A run is as large as itself, whatever its logarithm was rounded to.
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)

    def beyond(self, value: float) -> float:
        """How many times outside: 10 for ten times more than the largest, or ten times less than the smallest."""
        return max(1.0, value / self.high, self.low / value)


def check_runs(runs: Sequence[ScalingRun], at_least: int, purpose: str) -> None:
    """Raises ValueError unless there are enough runs, with finite numbers, whose losses can be compared."""
    if len(runs) < at_least:
        raise ValueError(f"{purpose} needs {at_least} runs or more, got {len(runs)}: train more, or fit a simpler law")
    wrong = [
        f"  {run.name or f'run {i}'}: {field}={getattr(run, field)}"
        for i, run in enumerate(runs)
        for field in ("parameters", "tokens", "flops", "loss")
        if not (math.isfinite(getattr(run, field)) and getattr(run, field) > 0)
    ]
    if wrong:
        listed = "\n".join(wrong)
        raise ValueError(f"runs without a finite, positive number, to be repeated or left out:\n{listed}")
    units = {run.unit for run in runs}
    if len(units) > 1:
        raise ValueError(f"losses in {' and '.join(sorted(units))} can't be compared: take one unit for all runs")
    tokenizers = {run.tokenizer for run in runs if run.tokenizer}
    if len(tokenizers) > 1 and units == {"nats_per_token"}:
        raise ValueError(
            f"the runs have {len(tokenizers)} different tokenizers, so their nats per token can't be compared: take "
            "bits per byte (val_bpb) of all of them"
        )


def columns(runs: Sequence[ScalingRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, C, L), float64 [runs] each."""
    table = np.array([[run.parameters, run.tokens, run.flops, run.loss] for run in runs], np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def flops_factor(runs: Sequence[ScalingRun]) -> float:
    """k of C = k N D, the geometric mean over runs. 6 for large models; more where attention or a head that shares
    its weights with the embedding counts, less where N holds an embedding of its own."""
    N, D, C, _ = columns(runs)
    return float(np.exp(np.mean(np.log(C / (N * D)))))
