"""Merging adjacent symbols by rank where each merge is watched: it may be left out, or its parts remembered.

`merging` does the same for those who only want the result, and is quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush


def merge_watched(
    symbols: Sequence[str],
    rank_of: Callable[[str, str], int | None],
    join: Callable[[str, str], str],
    *,
    considered: Callable[[str, str], None] = lambda left, right: None,
    dropped: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Merges the pair of the lowest rank, of equal ones the leftmost, until none has a rank.

    rank_of: of a pair. join: what a pair becomes. considered: is called for each pair that may be merged, when it comes
    to stand there. dropped: is asked before each merge, and leaves the pair as it is by saying True.
    """
    parts = list(symbols)
    following = list(range(1, len(parts) + 1))
    preceding = list(range(-1, len(parts) - 1))
    waiting: list[tuple[int, int, int, str, str]] = []

    def consider(i: int, j: int) -> None:
        if i >= 0 and j < len(parts) and (rank := rank_of(parts[i], parts[j])) is not None:
            considered(parts[i], parts[j])
            heappush(waiting, (rank, i, j, parts[i], parts[j]))

    for i in range(len(parts) - 1):
        consider(i, i + 1)
    while waiting:
        _, i, j, left, right = heappop(waiting)
        # The pair may have been merged with its neighbours since it was put there.
        if following[i] != j or (parts[i], parts[j]) != (left, right) or dropped():
            continue
        parts[i], parts[j] = join(left, right), ""
        following[i] = k = following[j]
        if k < len(parts):
            preceding[k] = i
        consider(preceding[i], i)
        consider(i, k)
    return [part for part in parts if part]


def check_dropout(dropout: float) -> None:
    """Raises ValueError if it is no probability."""
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be a probability, from 0 to 1, got {dropout}")
