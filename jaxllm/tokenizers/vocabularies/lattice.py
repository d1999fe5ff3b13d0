"""All ways to cut a piece into tokens, as a graph whose paths they are, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from itertools import pairwise
from math import exp, inf, log
from random import Random

Row = list[tuple[int, int]]
"""Begin and end of each token."""


class Lattice:
    """Nodes are the places between the characters of a piece; edges are tokens, each with a score."""

    def __init__(self, edges: Sequence[Sequence[tuple[int, float]]]):
        """edges: for each place but the last, the ends and the scores of the tokens that begin there."""
        self._edges = edges
        self._into: list[list[tuple[int, float]]] = [[] for _ in range(len(edges) + 1)]
        for begin, tokens in enumerate(edges):
            for end, score in tokens:
                self._into[end].append((begin, score))

    def n_best(self, n: int) -> list[tuple[Row, float]]:
        """The n paths with the highest sums of scores, best first, or as many as there are.

        Of equal ones the one comes first whose last token is the longest, then the one before it, and so on.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        # For each place its best partial paths: the score, where the last token begins, and the path up to there.
        best: list[list[tuple[float, int, int]]] = [[(0.0, 0, 0)]]
        for tokens in self._into[1:]:
            paths = (
                (before + score, -begin, -rank)
                for begin, score in tokens
                for rank, (before, _, _) in enumerate(best[begin])
            )
            best.append(nlargest(n, paths))
        return [(self._row(best, rank), score) for rank, (score, _, _) in enumerate(best[-1])]

    def _row(self, best: list[list[tuple[float, int, int]]], rank: int) -> Row:
        ends = [len(best) - 1]
        while ends[-1]:
            _, begin, rank = best[ends[-1]][rank]
            ends.append(-begin)
            rank = -rank
        return list(pairwise(reversed(ends)))

    def log_total(self, alpha: float = 1.0) -> float:
        """The logarithm of the sum over all paths of exp(alpha times the sum of scores)."""
        return self._forward(alpha)[-1]

    def sample(self, random: Random, alpha: float = 1.0) -> Row:
        """A path, with a probability proportional to exp(alpha times the sum of its scores).

        The sums up to each place are found from the begin on; tokens are then drawn from the end back.
        """
        forward = self._forward(alpha)
        ends = [len(forward) - 1]
        while end := ends[-1]:
            tokens = self._into[end]
            weights = [exp(forward[begin] + alpha * score - forward[end]) for begin, score in tokens]
            ends.append(random.choices(tokens, weights)[0][0])
        return list(pairwise(reversed(ends)))

    def sample_n_best(self, n: int, random: Random, alpha: float = 1.0) -> Row:
        """One of the n best paths, with a probability proportional to exp(alpha times the sum of its scores)."""
        rows = self.n_best(n)
        highest = rows[0][1]
        return random.choices(rows, [exp(alpha * (score - highest)) for _, score in rows])[0][0]

    def _forward(self, alpha: float) -> list[float]:
        if not 0 <= alpha < inf:
            raise ValueError(f"alpha must be a number from 0 on, got {alpha}")
        totals = [0.0]
        for tokens in self._into[1:]:
            totals.append(_log_sum([totals[begin] + alpha * score for begin, score in tokens]))
        return totals

    def all_rows(self) -> list[tuple[Row, float]]:
        """Every path with its score, of which there may be very many: what the methods above are shortcuts for."""
        rows: list[list[tuple[Row, float]]] = [[([], 0.0)]]
        for end, tokens in enumerate(self._into[1:], 1):
            rows.append(
                [([*row, (begin, end)], total + score) for begin, score in tokens for row, total in rows[begin]]
            )
        return rows[-1]


def _log_sum(logarithms: list[float]) -> float:
    highest = max(logarithms, default=-inf)
    if highest == -inf:
        return -inf
    return highest + log(sum(exp(value - highest) for value in logarithms))
