"""A mixture over the course of training: which source each row is of, from its number alone."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.data.mixing.apportionment import apportion, largest_remainder, shares_of, turns


@dataclass(frozen=True)
class Phase:
    """From row `start` of a run on, sources take turns by these shares; `before` are the rows they had until then."""

    start: int
    shares: tuple[int, ...]
    before: tuple[int, ...]


@dataclass(frozen=True)
class Mixture:
    """Phases one after another, the last without an end."""

    phases: tuple[Phase, ...]

    def counts(self, rows: int) -> tuple[int, ...]:
        """Of the first `rows` rows of the run, how many are of each source; they sum to `rows`."""
        phase = self._phase(rows)
        inside = apportion(phase.shares, rows - phase.start)
        return tuple(before + count for before, count in zip(phase.before, inside, strict=True))

    def turns(self, begin: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, number) of the rows from `begin` on: row i of the run is row `number` of its source, int64
        [length]."""
        pieces = []
        while length:
            phase = self._phase(begin)
            at = self.phases.index(phase)
            end = self.phases[at + 1].start if at + 1 < len(self.phases) else begin + length
            count = min(length, end - begin)
            sources, numbers = turns(phase.shares, begin - phase.start, count)
            pieces.append((sources, numbers + np.array(phase.before, np.int64)[sources]))
            begin, length = begin + count, length - count
        empty = np.empty(0, np.int64)
        joined = zip(*pieces, strict=True) if pieces else ((empty,), (empty,))
        sources, numbers = (np.concatenate(parts) for parts in joined)
        return sources, numbers

    def fingerprint(self) -> str:
        """Equal for mixtures that give every row to the same source."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def _phase(self, row: int) -> Phase:
        return self.phases[bisect.bisect_right(self.phases, row, key=lambda phase: phase.start) - 1]


def plan_mixture(
    stages: Sequence[tuple[int, Sequence[float]]],
    *,
    rows: int = 0,
    limits: Sequence[float] | None = None,
) -> Mixture:
    """A mixture from stages (first row, weights of the sources), the first from row 0 on.

    limits: how many rows of each source the run may take, math.inf for any number. Where a source would give more, its
    weight is lowered by the same factor in every stage, so that it lasts to the end of the run, and what it leaves goes
    to the others in proportion; `rows` is then how many the run takes in all.

    Raises ValueError where stages don't begin at 0 and ascend, have other numbers of weights, or the limits can't be
    kept.
    """
    starts = [start for start, _ in stages]
    if not starts or starts[0] != 0 or any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
        raise ValueError(f"the stages of a mixture must begin at row 0 and follow each other, got rows {starts}")
    shares = [shares_of(weights) for _, weights in stages]
    if len({len(each) for each in shares}) != 1:
        raise ValueError(f"every stage needs one weight a source, got {[len(each) for each in shares]}")
    if limits is not None and not all(math.isinf(limit) for limit in limits):
        shares = _limited(starts, shares, rows, limits)
    phases, before = [], (0,) * len(shares[0])
    for number, (start, each) in enumerate(zip(starts, shares, strict=True)):
        phases.append(Phase(start, each, before))
        if number + 1 < len(starts):
            gained = apportion(each, starts[number + 1] - start)
            before = tuple(a + b for a, b in zip(before, gained, strict=True))
    return Mixture(tuple(phases))


def _limited(
    starts: Sequence[int], shares: Sequence[Sequence[int]], rows: int, limits: Sequence[float]
) -> list[tuple[int, ...]]:
    """Shares that are the numbers of rows in each stage: a source's rows come out at exactly these at its end."""
    if rows <= starts[-1]:
        raise ValueError(f"limits need the number of rows of the whole run, beyond row {starts[-1]}; got {rows}")
    most = np.array([np.floor(limit) for limit in limits])
    if most.sum() < rows:
        raise ValueError(
            f"the sources may give {int(most.sum()):,} rows under their limits {most.tolist()}, the run takes "
            f"{rows:,}: raise the limits, or train for fewer steps"
        )
    lengths = np.diff([*starts, rows]).astype(float)
    weights = np.array(shares, float)
    factors = np.ones(weights.shape[1])
    for _ in range(10_000):
        parts = weights * factors
        quotas = lengths[:, None] * parts / parts.sum(1, keepdims=True)
        wanted = quotas.sum(0)
        if (wanted <= most + 1e-6).all():
            break
        # Never down to 0: a stage in which nothing else has a weight still has its proportions.
        factors = np.maximum(factors * np.minimum(1, most / np.maximum(wanted, 1e-9)), 1e-100)
    else:
        worst = int((wanted - most).argmax())
        if wanted[worst] > most[worst] + 1e-3:
            raise ValueError(
                f"source {worst} may give {int(most[worst]):,} rows, but the stages leave nothing to take in its "
                "place: give another source a weight there, or raise the limit"
            )
    left, numbers = most.copy(), []
    for length, quota in zip(np.diff([*starts, rows]), quotas, strict=True):
        counts = largest_remainder(quota, int(length), left)
        left -= counts
        numbers.append(tuple(counts))
    return numbers
