"""Which rows of a batch each process reads, and how they become its part of a global array.

A process may hold several parts of the batch, or share one with others: that is the mesh's business, and it is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding


@dataclass(frozen=True)
class Readers:
    """The processes in groups that read the same rows: this one is of group `index` of `count`, and reads `rows`.

    `rows` int [n], ascending: where in the global batch the n rows lie that the loader gives this process.
    """

    index: int
    count: int
    rows: tuple[int, ...]


def find_readers(
    sharding: NamedSharding,
    rows: int,
    *,
    process: int | None = None,
    process_of: Callable[[jax.Device], int] = lambda device: device.process_index,
) -> Readers:
    """Who reads what of a batch of `rows` rows, whose first axis lies as `sharding` says.

    Raises ValueError when parts of two processes overlap without being the same: no loader can give these.
    """
    process = jax.process_index() if process is None else process
    # The batch alone: how the other axes are split says nothing of rows.
    by_row = NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[:1]))
    held: dict[int, set[int]] = {}
    for device, (index,) in by_row.devices_indices_map((rows,)).items():
        held.setdefault(process_of(device), set()).update(range(*index.indices(rows)))
    groups = sorted({tuple(sorted(own)) for own in held.values()})
    if sum(map(len, groups)) != rows or len({len(group) for group in groups}) != 1:
        owned = "; ".join(f"process {number}: {_ranges(sorted(own))}" for number, own in sorted(held.items()))
        raise ValueError(
            f"the {rows} rows of a batch are not shared evenly by the hosts ({owned}): change the mesh so that each "
            "host has whole parts of the data and fsdp axes, or all of them"
        )
    mine = tuple(sorted(held[process]))
    return Readers(groups.index(mine), len(groups), mine)


def place_rows(batch: dict[str, np.ndarray], sharding: NamedSharding, rows: int, readers: Readers) -> dict:
    """Global arrays [rows, ...] of this process's rows [len(readers.rows), ...] and those of the others."""
    mine = np.asarray(readers.rows)

    def place(local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = int(np.searchsorted(mine, start))
            return local[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((rows, *local.shape[1:]), sharding, part)

    return {name: place(local) for name, local in batch.items()}


def _ranges(numbers: list[int]) -> str:
    """`0-3, 8-11`"""
    starts = [n for i, n in enumerate(numbers) if i == 0 or numbers[i - 1] != n - 1]
    ends = [n for i, n in enumerate(numbers) if i + 1 == len(numbers) or numbers[i + 1] != n + 1]
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))
