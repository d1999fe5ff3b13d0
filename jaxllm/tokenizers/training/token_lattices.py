"""The lattices of many words at once as flat arrays, so that sums over all ways to cut them take little time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Edges(NamedTuple):
    """Tokens at their places in the lattices; each array has an element for each edge."""

    begin: np.ndarray
    """the node where it begins"""
    end: np.ndarray
    """the node where it ends"""
    token: np.ndarray
    """which token it is"""

    def where(self, chosen: np.ndarray) -> Edges:
        return Edges(*(field[chosen] for field in self))


class TokenLattices:
    """Nodes have a depth, the number of characters before them in their word, and edges lead to deeper ones only.

    Every node but a word's first must be the end of an edge, and every one but a word's last the begin of one: that is
    so where each character is a token.
    """

    def __init__(self, edges: Edges, depths: np.ndarray, first: np.ndarray, last: np.ndarray, counts: np.ndarray):
        """depths: of the nodes. first, last: nodes of each word. counts: how often each word occurs."""
        self._depths, self._first, self._last, self._counts = depths, first, last, counts
        word_of = np.empty(len(depths), np.int64)
        for nodes in (first, last):
            word_of[nodes] = np.arange(len(first))
        # Nodes of a word stand together.
        self._word_of = np.repeat(word_of[first], last - first + 1)
        size = len(depths)
        self._into = edges.where(np.argsort(depths[edges.end].astype(np.int64) * size + edges.end, kind="stable"))
        self._out = edges.where(np.argsort(depths[edges.begin].astype(np.int64) * size + edges.begin, kind="stable"))
        self._plan()

    @property
    def edges(self) -> Edges:
        """All edges; those of one begin stand together."""
        return self._out

    def keep(self, kept: np.ndarray) -> None:
        """Leaves out tokens. kept: for each, its new number, or -1 for one that is left out."""
        self._into, self._out = (
            Edges(part.begin, part.end, kept[part.token]).where(kept[part.token] >= 0)
            for part in (self._into, self._out)
        )
        self._plan()

    def expect(self, scores: np.ndarray) -> tuple[np.ndarray, float]:
        """How often each token is to be expected, over all ways to cut the words, and the log likelihood of all words.

        scores: the logarithm of each token's probability.
        """
        before = self.forward(scores)
        after = self._sweep(self._out, self._out_plan[::-1], self._out.end, scores, self._last)
        edges, word = self._out, self._word_of[self._out.begin]
        total = before[self._last]
        shares = np.exp(before[edges.begin] + scores[edges.token] + after[edges.end] - total[word])
        counts = np.bincount(edges.token, shares * self._counts[word], len(scores))
        return counts, float(total @ self._counts)

    def forward(self, scores: np.ndarray) -> np.ndarray:
        """For each node, the logarithm of the sum over all ways from the begin of its word to it."""
        return self._sweep(self._into, self._into_plan, self._into.begin, scores, self._first)

    def totals(self, scores: np.ndarray) -> np.ndarray:
        """For each word, the logarithm of the sum over all ways to cut it; minus infinity if there is none."""
        return self.forward(scores)[self._last]

    def _sweep(self, edges: Edges, plan, other: np.ndarray, scores: np.ndarray, sources: np.ndarray) -> np.ndarray:
        sums = np.full(len(self._depths), -np.inf)
        sums[sources] = 0.0
        values = scores[edges.token]
        for low, high, groups, lengths, nodes in plan:
            terms = values[low:high] + sums[other[low:high]]
            highest = np.maximum(np.maximum.reduceat(terms, groups), -1e300)  # a difference of infinities is no number
            with np.errstate(divide="ignore"):
                logs = np.log(np.add.reduceat(np.exp(terms - np.repeat(highest, lengths)), groups))
            sums[nodes] = highest + logs
        return sums

    def _plan(self) -> None:
        self._into_plan = self._levels(self._into.end)
        self._out_plan = self._levels(self._out.begin)

    def _levels(self, nodes: np.ndarray) -> list[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
        """For each depth its range of edges, where in it each node's begin, how many they are, and the nodes."""
        bounds = np.concatenate([[0], np.nonzero(np.diff(self._depths[nodes]))[0] + 1, [len(nodes)]])
        levels = []
        for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            here = nodes[low:high]
            groups = np.concatenate([[0], np.nonzero(np.diff(here))[0] + 1])
            levels.append((low, high, groups, np.diff(groups, append=high - low), here[groups]))
        return levels if len(nodes) else []
