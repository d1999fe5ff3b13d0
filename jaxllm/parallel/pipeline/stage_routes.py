"""Parameters go from where they are kept to where a schedule wants them, and their gradients come back.

They are kept in the order of the layers, an equal share of the stages on each rank, so that what is saved depends on no
schedule. Some schedules place stages otherwise, and DualPipe wants each stage twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

AXIS = "pipeline"


@dataclass(frozen=True)
class Round:
    """One permutation of the ranks, in which each sends one of its stages and receives one."""

    pairs: tuple[tuple[int, int], ...]
    sent: np.ndarray
    """Which of the stages it keeps a rank sends."""
    received: np.ndarray
    """Which of its chunks the stage is that a rank receives."""


@dataclass(frozen=True)
class StageRoutes:
    """The rounds of every direction; None where the stages are already where they should be."""

    rounds: tuple[tuple[Round, ...] | None, ...]
    kept: int
    """Stages that a rank keeps; it has as many chunks in each direction."""

    @classmethod
    def of(cls, placement: Sequence[Sequence[int]], ranks: int) -> StageRoutes:
        """For stages on `placement[direction][stage]`; every rank must have equally many."""
        kept = len(placement[0]) // ranks
        in_order = [stage // kept for stage in range(len(placement[0]))]
        rounds = tuple(None if list(ranks_of) == in_order else _rounds(ranks_of, ranks, kept) for ranks_of in placement)
        return cls(rounds, kept)

    def deliver(self, layers: Any) -> Any:
        """[stages kept, ...] of every leaf to [chunks, ...]: by direction, then by stage. Inside `shard_map`."""
        return jax.tree.map(lambda x: jnp.concatenate([self._there(x, rounds) for rounds in self.rounds]), layers)

    def collect(self, layers: Any) -> Any:
        """The way back, where what comes from several copies of a stage is added."""

        def back(x):
            parts = jnp.split(x, len(self.rounds))
            return sum(self._back(part, rounds) for part, rounds in zip(parts, self.rounds, strict=True))

        return jax.tree.map(back, layers)

    def _there(self, x, rounds):
        if rounds is None:
            return x
        rank, moved = jax.lax.axis_index(AXIS), jnp.zeros_like(x)
        for r in rounds:
            arrived = jax.lax.ppermute(_take(x, r.sent, rank), AXIS, r.pairs)
            moved = _put(moved, arrived, r.received, rank)
        return moved

    def _back(self, x, rounds):
        if rounds is None:
            return x
        rank, moved = jax.lax.axis_index(AXIS), jnp.zeros_like(x)
        for r in rounds:
            pairs = [(receiver, sender) for sender, receiver in r.pairs]
            arrived = jax.lax.ppermute(_take(x, r.received, rank), AXIS, pairs)
            moved = _put(moved, arrived, r.sent, rank)
        return moved


def _take(x, index_of_rank: np.ndarray, rank):
    return jax.lax.dynamic_index_in_dim(x, jnp.asarray(index_of_rank)[rank], 0, keepdims=False)


def _put(x, value, index_of_rank: np.ndarray, rank):
    return jax.lax.dynamic_update_index_in_dim(x, value, jnp.asarray(index_of_rank)[rank], 0)


def _rounds(rank_of_stage: Sequence[int], ranks: int, kept: int) -> tuple[Round, ...]:
    """Stages dealt out to rounds so that each rank sends and receives one in each.

    There is always such a deal: senders and receivers with the stages as edges are a regular bipartite graph, which
    falls into perfect matchings (König 1916).
    """
    left = set(range(len(rank_of_stage)))
    chunk = {stage: sum(rank_of_stage[s] == rank for s in range(stage)) for stage, rank in enumerate(rank_of_stage)}
    rounds = []
    for _ in range(kept):
        stage_for: dict[int, int] = {}  # by receiver
        for sender in range(ranks):
            matched = _match(sender, rank_of_stage, kept, left, stage_for, set())
            assert matched, rank_of_stage
        left -= set(stage_for.values())
        by_sender = sorted((stage // kept, receiver, stage % kept) for receiver, stage in stage_for.items())
        sent = np.array([place for _, _, place in by_sender], np.int32)
        received = np.array([chunk[stage_for[rank]] for rank in range(ranks)], np.int32)
        rounds.append(Round(tuple((sender, receiver) for sender, receiver, _ in by_sender), sent, received))
    return tuple(rounds)


def _match(sender: int, rank_of_stage, kept: int, left: set[int], stage_for: dict[int, int], tried: set[int]) -> bool:
    """Find a stage for a sender to send, moving earlier senders to other stages where need be (augmenting paths)."""
    for stage in sorted(left):
        receiver = rank_of_stage[stage]
        if stage // kept != sender or receiver in tried:
            continue
        tried.add(receiver)
        free = receiver not in stage_for
        if free or _match(stage_for[receiver] // kept, rank_of_stage, kept, left, stage_for, tried):
            stage_for[receiver] = stage
            return True
    return False
