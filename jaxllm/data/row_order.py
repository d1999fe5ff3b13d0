"""The endless sequence of rows that training reads, each found by its number: shuffled epochs of one source, windows of
one that is too large to plan at once, and several sources in turn."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import lru_cache
from threading import RLock
from typing import Protocol

import numpy as np

from jaxllm.data.mixing.apportionment import turns
from jaxllm.data.mixing.schedule import Mixture
from jaxllm.data.packing import Packing, PackingPlan, Rewrite, empty_row, pack_row, plan_packing, shuffled
from jaxllm.data.token_source import TokenSource

Row = dict[str, np.ndarray]

# More rows than any run reads. grain's own endless repetition counts sys.maxsize rows, which its batches, computing
# in floating point, round up to a length that Python refuses.
ENDLESS_ROWS = 2**50

# Turns that are worked out together, so that the search for where to begin is shared.
_TURNS = 1024


class RowOrder(Protocol):
    """Row i of an endless sequence, for any i below ENDLESS_ROWS; a row depends on i alone. Many threads read."""

    @property
    def rows_per_epoch(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Of everything but the seed that decides the rows."""

    def epochs(self, rows: int) -> float:
        """How often the source has been gone through after so many rows."""

    def __getitem__(self, number: int) -> Row: ...


class PackedRows:
    """The rows of a plan as a random-access source for grain."""

    def __init__(self, plan: PackingPlan, store: TokenSource, *, rewrite: Rewrite | None = None):
        self._plan = plan
        self._store = store
        self._rewrite = rewrite

    def __len__(self) -> int:
        return self._plan.num_rows

    def __getitem__(self, row: int) -> Row:
        return pack_row(self._plan, self._store, row, self._store.end_of_text, self._rewrite)


class RowsInTurn:
    """All rows of some plans, each once and in its order, then rows of padding up to `padded_to`.

    Plans take turns in proportion to their rows, so that any beginning of the sequence is of all of them.
    """

    def __init__(self, plans: Sequence[PackingPlan], stores: Sequence[TokenSource], *, padded_to: int):
        self._parts = [PackedRows(plan, store) for plan, store in zip(plans, stores, strict=True)]
        counts = [plan.num_rows for plan in plans]
        self._sources, self._numbers = turns(counts, 0, sum(counts))
        self._padding = empty_row(plans[0].row_length, stores[0].end_of_text)
        self._length = padded_to

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Row:
        if len(self._sources) <= row < self._length:
            return self._padding
        return self._parts[self._sources[row]][int(self._numbers[row])]


class ShuffledRows:
    """All rows of a plan, shuffled anew for each epoch."""

    def __init__(self, plan: PackingPlan, store: TokenSource, *, seed: int, rewrite: Rewrite | None = None):
        import grain

        self.plan = plan
        rows = grain.MapDataset.source(PackedRows(plan, store, rewrite=rewrite)).shuffle(seed=grain_seed(seed))
        self._rows = rows.repeat(max(1, ENDLESS_ROWS // plan.num_rows))

    @property
    def rows_per_epoch(self) -> int:
        return self.plan.num_rows

    @property
    def fingerprint(self) -> str:
        return self.plan.fingerprint()

    def epochs(self, rows: int) -> float:
        return rows / self.plan.num_rows

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]


class WindowedRows:
    """Rows of a source that is packed `window` documents at a time, so that memory holds the plans of a few windows.

    Windows follow each other in an order drawn for each epoch, and so do the rows of a window. How many rows a window
    has is known once it has been planned, which reads the lengths of its documents; a run that begins at row n plans
    the windows before n once and keeps their counts alone.
    """

    def __init__(
        self,
        store: TokenSource,
        *,
        row_length: int,
        packing: Packing,
        seed: int,
        window: int,
        rewrite: Rewrite | None = None,
    ):
        """window: documents that are packed together, at least 1."""
        self._store, self._seed, self._window, self._rewrite = store, seed, window, rewrite
        self._row_length, self._packing = row_length, packing
        self._counts = np.full(-(-store.documents // window), -1, np.int64)
        self._lock = RLock()
        self._plans = lru_cache(4)(self._make_plan)
        self._orders = lru_cache(4)(lambda epoch: shuffled(len(self._counts), hash_of(seed, 1, epoch)))
        self._row_orders = lru_cache(4)(
            lambda epoch, window: shuffled(self._count(window), hash_of(seed, 2, epoch, window))
        )
        self._ends: dict[int, list[int]] = {}

    @property
    def rows_per_epoch(self) -> int:
        """Plans every window that has not been planned yet."""
        return sum(self._count(window) for window in range(len(self._counts)))

    @property
    def fingerprint(self) -> str:
        return f"{self._packing} rows of {self._row_length} from windows of {self._window} documents"

    def epochs(self, rows: int) -> float:
        epoch, inside, _, _ = self._find(rows)
        return epoch + inside / len(self._counts)

    @property
    def utilization(self) -> float:
        """The part of all positions of the windows planned so far that holds a pair; NaN before the first."""
        with self._lock:
            known = np.flatnonzero(self._counts >= 0)
            rows = int(self._counts[known].sum())
        pairs = sum(int(self._lengths(window).sum()) + len(self._lengths(window)) for window in known.tolist())
        return pairs / (rows * self._row_length) if rows else float("nan")

    def __getitem__(self, number: int) -> Row:
        epoch, _, window, row = self._find(number)
        with self._lock:
            plan = self._plans(window)
            row = int(self._row_orders(epoch, window)[row])
        return pack_row(plan, self._store, row, self._store.end_of_text, self._rewrite)

    def _find(self, number: int) -> tuple[int, int, int, int]:
        """(epoch, how many windows of it are before, window, row of it in the epoch's order) of row `number`."""
        with self._lock:
            epoch, number = (0, number) if (self._counts < 0).any() else divmod(number, int(self._counts.sum()))
            while True:
                order = self._orders(epoch)
                ends = self._ends.setdefault(epoch, [])
                while len(ends) < len(order) and not (ends and ends[-1] > number):
                    ends.append((ends[-1] if ends else 0) + self._count(int(order[len(ends)])))
                if number < ends[-1]:
                    break
                epoch, number = epoch + number // ends[-1], number % ends[-1]  # every epoch has as many rows
            if len(self._ends) > 2:
                self._ends = {epoch: ends}
            at = bisect.bisect_right(ends, number)
            return epoch, at, int(order[at]), number - (ends[at - 1] if at else 0)

    def _count(self, window: int) -> int:
        if self._counts[window] < 0:
            self._counts[window] = self._plans(window).num_rows
        return int(self._counts[window])

    def _lengths(self, window: int) -> np.ndarray:
        begin = window * self._window
        return self._store.lengths_of(begin, min(begin + self._window, self._store.documents))

    def _make_plan(self, window: int) -> PackingPlan:
        seed = hash_of(self._seed, 0, window)
        plan = plan_packing(self._lengths(window), self._row_length, packing=self._packing, seed=seed)
        numbers = plan.document + window * self._window
        return PackingPlan(plan.row_length, plan.row_offsets, numbers, plan.start, plan.length)


class MixedRows:
    """Rows of several sources, in the turns of a mixture."""

    def __init__(self, mixture: Mixture, sources: Sequence[RowOrder]):
        self._sources = sources
        self._turns = lru_cache(8)(lambda block: mixture.turns(block * _TURNS, _TURNS))

    def __getitem__(self, number: int) -> Row:
        block, inside = divmod(number, _TURNS)
        sources, numbers = self._turns(block)
        return self._sources[int(sources[inside])][int(numbers[inside])]


def order_rows(
    store: TokenSource,
    *,
    row_length: int,
    packing: Packing,
    seed: int,
    window: int = 0,
    rewrite: Rewrite | None = None,
) -> ShuffledRows | WindowedRows:
    """The sequence of one source: planned as a whole, or with `window` so many documents at a time."""
    if window:
        return WindowedRows(store, row_length=row_length, packing=packing, seed=seed, window=window, rewrite=rewrite)
    plan = plan_packing(store.lengths, row_length, packing=packing, seed=seed)
    return ShuffledRows(plan, store, seed=seed, rewrite=rewrite)


class EndlessRows:
    """A sequence of rows as grain wants it."""

    def __init__(self, rows: RowOrder | MixedRows):
        self._rows = rows

    def __len__(self) -> int:
        return ENDLESS_ROWS

    def __getitem__(self, number: int) -> Row:
        return self._rows[number]


def grain_seed(seed: int) -> int:
    """A 32-bit seed far from those of neighbouring numbers: grain shuffles epoch e with seed + e."""
    mixed = (seed + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
    return mixed >> 32


def hash_of(*numbers: int) -> int:
    """A 63-bit seed of its own for each row of numbers (SplitMix64's mixing, one number after another)."""
    value = 0
    for number in numbers:
        value = (value ^ number) + 0x9E3779B97F4A7C15 & 2**64 - 1
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 2**64 - 1
        value = (value ^ value >> 27) * 0x94D049BB133111EB & 2**64 - 1
        value ^= value >> 31
    return value >> 1
