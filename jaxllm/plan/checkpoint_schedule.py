"""The fewest forward steps that reverse a chain of layers with room for few of their inputs.

A scan over groups recomputes each layer once. With less room still, a schedule recomputes inside its recomputation:
reversing l steps with c inputs to keep takes p(l, c) forward steps, and binomial numbers say how many (Griewank and
Walther 2000, algorithm 799).
"""

from __future__ import annotations

import math
from functools import cache


def forward_steps(layers: int, slots: int) -> int:
    """p(l, c) = r l - C(c + r, r - 1), where r, the most often that a layer is run forward, is the smallest with
    C(c + r, c) >= l. The input of the first layer takes one of the `slots`, and a layer's own backward step, which runs
    it forward once more, is not counted. Raises ValueError without a slot."""
    if slots < 1 or layers < 1:
        raise ValueError(f"at least one layer and one slot for its input are needed, got {layers} and {slots}")
    repetitions = 0
    while math.comb(slots + repetitions, slots) < layers:
        repetitions += 1
    return repetitions * layers - math.comb(slots + repetitions, repetitions - 1) if repetitions else 0


@cache
def split(layers: int, slots: int) -> int:
    """How many layers to run forward before the next input is kept; 0 where nothing more is kept."""
    if layers == 1 or slots == 1:
        return 0
    costs = {k: k + forward_steps(layers - k, slots - 1) + forward_steps(k, slots) for k in range(1, layers)}
    return min(costs, key=costs.__getitem__)


def schedule(layers: int, slots: int) -> list[tuple[str, int]]:
    """What to do, in order: ("keep", i) the input of layer i, ("forward", i) run it, ("backward", i), ("drop", i)."""

    def reverse(first: int, count: int, room: int) -> list[tuple[str, int]]:
        ahead = split(count, room)
        if count == 1:
            return [("backward", first)]
        if not ahead:  # from the only input over and over
            steps = []
            for last in reversed(range(first, first + count)):
                steps += [("forward", i) for i in range(first, last)] + [("backward", last)]
            return steps
        middle = first + ahead
        forward = [("forward", i) for i in range(first, middle)]
        later = reverse(middle, count - ahead, room - 1)
        return [*forward, ("keep", middle), *later, ("drop", middle), *reverse(first, ahead, room)]

    return [("keep", 0), *reverse(0, layers, slots), ("drop", 0)]
