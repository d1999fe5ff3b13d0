"""Whose turn it is: rows given to sources in proportion to their shares, with exact counts at every point.

A source with share a gets its rows at the times 1/a, 3/a, 5/a, ..., and all rows come in the order of their times. The
first n rows of this order are the seats that a parliament of n seats would have by Webster's method (Sainte-Laguë): as
close to proportional as whole numbers get, never one fewer when n grows, and, unlike a drawn sequence, without chance.
Any n is reached at once, because the time of the n-th row is known up to half a turn of each source.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

# Weights become shares in whole numbers of this, so that all machines compare the same times.
SHARE_UNIT = 2**40


def shares_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole-numbered shares of weights that need not sum to 1.

    Raises ValueError for a weight that is negative or no number, and where none is above 0.
    """
    values = np.asarray(weights, np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise ValueError(
            f"weights must be numbers of at least 0, one of them above it; got {list(map(float, weights))}"
        )
    return tuple(max(1, round(float(value) * SHARE_UNIT)) if value > 0 else 0 for value in values / values.sum())


def apportion(shares: Sequence[int], rows: int) -> tuple[int, ...]:
    """Of the first `rows` rows, how many are of each source. They sum to `rows`."""
    total, active = sum(shares), sum(share > 0 for share in shares)
    # The time of the last of them is at least (2 * rows - active) / total.
    counts = [max(0, ((2 * rows - active) * share // total + 1) // 2 - 1) if share else 0 for share in shares]
    order, _ = _turns(shares, counts, rows - sum(counts))
    for source in order:
        counts[source] += 1
    return tuple(counts)


def turns(shares: Sequence[int], begin: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(source, number) of the rows from `begin` on: whose turn it is, how many rows it had before; int64 [length]."""
    sources, numbers = _turns(shares, apportion(shares, begin), length)
    return np.array(sources, np.int64), np.array(numbers, np.int64)


def _turns(shares: Sequence[int], counts: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """The turns that follow after each source had `counts` of them."""
    counts = list(counts)
    # Of equal times the first source comes first. Division is exact to the last bit on every machine.
    waiting = [((2 * counts[source] + 1) / share, source) for source, share in enumerate(shares) if share]
    heapq.heapify(waiting)
    sources, numbers = [], []
    for _ in range(length):
        _, source = waiting[0]
        sources.append(source)
        numbers.append(counts[source])
        counts[source] += 1
        heapq.heapreplace(waiting, ((2 * counts[source] + 1) / shares[source], source))
    return sources, numbers


def largest_remainder(quotas: Sequence[float], rows: int, limits: Sequence[float] | None = None) -> list[int]:
    """Whole numbers that sum to `rows`, each its quota rounded down or up; those with the largest remainders go up
    (Hamilton's method). None goes above its limit. `quotas` sum to `rows`.

    Raises ValueError where the limits leave no room for all rows.
    """
    limits = [np.inf] * len(quotas) if limits is None else limits
    counts = [int(min(np.floor(quota + 1e-9), limit)) for quota, limit in zip(quotas, limits, strict=True)]
    by_remainder = sorted(range(len(quotas)), key=lambda source: (counts[source] - quotas[source], source))
    missing = rows - sum(counts)
    while missing:
        raised = [source for source in by_remainder if quotas[source] > 0 and counts[source] + 1 <= limits[source]]
        if not raised:
            raise ValueError(f"{rows} rows don't fit into the limits {list(limits)}")
        for source in raised[:missing]:
            counts[source] += 1
        missing = rows - sum(counts)
    return counts
