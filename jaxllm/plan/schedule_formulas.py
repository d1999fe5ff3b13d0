"""What papers say of pipeline schedules: the bubble, activations and parameters, in the units of the simulator.

P ranks, M microbatches; F, I, W and B = I + W are times of a P-th of the model, F&B that of a forward and a backward
that overlap. Papers mean one of two things by a bubble: the idle time of a rank in the whole step, or, where ranks need
not wait for each other before the next step, only that between the rank's own first start and last end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from jaxllm.plan.schedule_simulation import Costs, Time


@dataclass(frozen=True)
class Published:
    """The closed forms of one schedule."""

    bubble: Callable[[int, Costs, int], Time]
    """Of ranks, costs of a P-th of the model, and chunks a rank: the rank that idles most."""
    measure: Literal["idle", "bubble"]
    """What the simulator calls it: `Simulation.idle` or `Simulation.bubble`."""
    peak: Callable[[int, int, int, int], Fraction | int]
    """Of ranks, microbatches, chunks a rank, and the rank: microbatches held, each with the activations of a P-th."""
    parameters: int
    """Copies of a P-th of the model on each rank."""
    exact: str
    """When the simulator, without communication, gives exactly this bubble. It gives the activations always, but that
    ZBV holds fewer where M < 2P - 1."""
    source: str


def idle_share(ranks: int, microbatches: int, chunks: int = 1) -> Fraction:
    """Idle time over all time, for GPipe, 1F1B and (chunks > 1) interleaved 1F1B: (P - 1) / (v M + P - 1)."""
    return Fraction(ranks - 1, chunks * microbatches + ranks - 1)


def overhead(ranks: int, microbatches: int, chunks: int = 1) -> Fraction:
    """Idle time over busy time, for GPipe, 1F1B and (chunks > 1) interleaved 1F1B: (P - 1) / (v M)."""
    return Fraction(ranks - 1, chunks * microbatches)


PUBLISHED: dict[str, Published] = {
    "gpipe": Published(
        bubble=lambda ranks, cost, chunks: (ranks - 1) * (cost.forward + cost.backward),
        measure="idle",
        peak=lambda ranks, count, chunks, rank: count,
        parameters=1,
        exact="always",
        source="arXiv:2104.04473, section 2.2.1",
    ),
    "1f1b": Published(
        bubble=lambda ranks, cost, chunks: (ranks - 1) * (cost.forward + cost.backward),
        measure="idle",
        peak=lambda ranks, count, chunks, rank: min(ranks - rank, count),
        parameters=1,
        exact="always",
        source="arXiv:2104.04473, section 2.2.1",
    ),
    "interleaved": Published(
        bubble=lambda ranks, cost, chunks: Fraction(ranks - 1, chunks) * (cost.forward + cost.backward),
        # On rank 0 this is P (1 + (P - 1) / (P v)), the paper's factor over 1F1B.
        measure="idle",
        peak=lambda ranks, count, chunks, rank: Fraction(
            min((chunks - 1) * ranks + (2 if chunks > 1 else 1) * (ranks - 1 - rank) + 1, count * chunks), chunks
        ),
        parameters=1,
        exact="always",
        source="arXiv:2104.04473, section 2.2.2; memory: arXiv:2205.05198, section 4.2.3",
    ),
    "zb-h1": Published(
        bubble=lambda ranks, cost, chunks: (ranks - 1) * (cost.forward + cost.input_gradient - cost.weight_gradient),
        measure="bubble",
        peak=lambda ranks, count, chunks, rank: min(ranks, count),
        parameters=1,
        exact="M >= P and W <= F",
        source="arXiv:2401.10241, table 2",
    ),
    "zb-h2": Published(
        bubble=lambda ranks, cost, chunks: max(
            0, (ranks - 1) * (cost.forward + cost.input_gradient - 2 * cost.weight_gradient)
        ),
        measure="bubble",
        peak=lambda ranks, count, chunks, rank: min(2 * ranks - 1, count),
        parameters=1,
        exact="M >= 2P - 1 and W <= F",
        source="arXiv:2401.10241, table 2",
    ),
    "zbv": Published(
        bubble=lambda ranks, cost, chunks: 0,
        measure="bubble",
        peak=lambda ranks, count, chunks, rank: min(ranks, count),
        parameters=1,
        exact="F = I = W and M >= 2P - 1",
        source="arXiv:2401.10241, section 6",
    ),
    "dualpipe": Published(
        bubble=lambda ranks, cost, chunks: (ranks // 2 - 1) * (cost.pair + cost.backward - 3 * cost.weight_gradient),
        measure="idle",
        peak=lambda ranks, count, chunks, rank: ranks + 1,
        parameters=2,
        exact="F = I >= W",
        source="the table beside DeepSeek's DualPipe code; arXiv:2412.19437, table 2",
    ),
    # The same table counts PP = 2P stages: PP/2 - 1 is P - 1, and PP + 1 activations are of half of this size.
    "dualpipe-v": Published(
        bubble=lambda ranks, cost, chunks: (
            Fraction(ranks - 1, 2) * (cost.pair + cost.backward - 3 * cost.weight_gradient)
        ),
        measure="idle",
        peak=lambda ranks, count, chunks, rank: Fraction(2 * ranks + 1, 2),
        parameters=1,
        exact="F = I >= W",
        source="the table beside DeepSeek's DualPipe code",
    ),
}
