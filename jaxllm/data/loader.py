"""From a token store and a packing plan to batches, for this process, in an order that can be taken up anywhere.

Batch k of a run holds the rows k * B .. (k + 1) * B - 1 of an endless sequence: all rows of the plan, shuffled anew
for each epoch. It depends on the plan, the seed and the batch size B alone, so neither the number of processes, nor
that of threads, nor a restart in between changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.data.config import DataConfig
from jaxllm.data.packing import PackingPlan, empty_row, pack_row, plan_packing
from jaxllm.data.token_store import TokenStore

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

_STATE_FORMAT = 1

# More rows than any run reads. grain's own endless repetition counts sys.maxsize rows, which its batches, computing
# in floating point, round up to a length that Python refuses.
_ENDLESS_ROWS = 2**50


class PackedRows:
    """The rows of a plan as a random-access source for grain; from the plan's last row to `padded_to` comes padding."""

    def __init__(self, plan: PackingPlan, store: TokenStore, *, padded_to: int | None = None):
        self._plan = plan
        self._store = store
        self._length = plan.num_rows if padded_to is None else padded_to

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Batch:
        if self._plan.num_rows <= row < self._length:
            return empty_row(self._plan.row_length, self._store.end_of_text)
        return pack_row(self._plan, self._store, row, self._store.end_of_text)


class TrainLoader:
    """An endless iterator over this process's part of each global batch, with a state that fits into a checkpoint.

    batch_size is the global one; each batch is a dict of arrays [batch_size / process_count, row_length] as pack_row
    describes them, and process p of the `process_count` that read different rows gets the p-th run of rows of
    the global batch. A batch may be larger than an epoch: rows are then repeated within it.

    A loader is used by one thread. Close it, or use it in a `with` block, to let go of its threads.
    """

    def __init__(
        self,
        store: TokenStore,
        config: DataConfig,
        *,
        row_length: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Raises ValueError if batch_size is not divisible by process_count or process_index is out of range."""
        local_size = _local_size(batch_size, process_index, process_count)
        self.plan = plan_packing(store.lengths, row_length, packing=config.packing, seed=config.shuffle_seed)
        # What must be equal for a saved state to mean the same batches; the number of processes is not among it.
        self._identity = {
            "format": _STATE_FORMAT,
            "tokens": store.manifest.sha256,
            "plan": self.plan.fingerprint(),
            "shuffle_seed": config.shuffle_seed,
            "batch_size": batch_size,
        }
        import grain

        epochs = max(1, _ENDLESS_ROWS // self.plan.num_rows)
        rows = grain.MapDataset.source(PackedRows(self.plan, store)).shuffle(seed=_grain_seed(config.shuffle_seed))
        rows = rows.repeat(epochs)
        self._iterator = _iterate(rows, local_size, process_index, process_count, config)

    @property
    def next_batch(self) -> int:
        """The number, from 0, of the batch that comes next."""
        return self._iterator.get_state()["next_index"]

    @property
    def epoch(self) -> float:
        """How often the rows have been gone through by the batches given so far."""
        return self.next_batch * self._identity["batch_size"] / self.plan.num_rows

    def __iter__(self) -> TrainLoader:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, int | str]:
        """The position, after the batches given so far, as plain values for JSON; the same in every process."""
        return {**self._identity, "next_batch": self.next_batch}

    def set_state(self, state: dict[str, int | str]) -> None:
        """Goes to a position that get_state gave, also from a run with another number of processes or threads.

        Raises ValueError, naming each difference, if the state is of another corpus, packing, seed or batch size.
        """
        expected = self.get_state()
        if state.keys() != expected.keys():
            raise ValueError(f"this is not a loader state: expected the keys {sorted(expected)}, found {sorted(state)}")
        differing = [
            f"{key} was {state[key]}, is {value}" for key, value in self._identity.items() if state[key] != value
        ]
        if differing:
            raise ValueError(
                f"the state belongs to other batches: {'; '.join(differing)}; "
                "resume with the same corpus, packing, row length, seed and batch size, or start a new run"
            )
        self._go_to(state["next_batch"])

    def skip(self, batches: int) -> None:
        """Passes over the next batches without building them. Raises ValueError for a negative number."""
        if batches < 0:
            raise ValueError(f"can't skip {batches} batches; to go back, use set_state")
        self._go_to(self.next_batch + batches)

    def _go_to(self, batch: int) -> None:
        self._iterator.set_state({"next_index": int(batch)})

    def close(self) -> None:
        """Stops reading ahead; the loader gives no more batches."""
        self._iterator.close()

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()


class ValidationBatches:
    """All rows of a plan, once and in order, each time it is iterated; every process gets the same number of batches.

    Batches are as in TrainLoader. Where the last rows don't fill a global batch, rows of padding (weight 0) do.
    `len()` is the number of batches.
    """

    def __init__(
        self,
        store: TokenStore,
        config: DataConfig,
        *,
        row_length: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Raises ValueError if batch_size is not divisible by process_count or process_index is out of range."""
        self._local_size = _local_size(batch_size, process_index, process_count)
        self.plan = plan_packing(store.lengths, row_length, packing=config.packing, seed=config.shuffle_seed)
        self._batches = -(-self.plan.num_rows // batch_size)
        self._rows = PackedRows(self.plan, store, padded_to=self._batches * batch_size)
        self._process = (process_index, process_count)
        self._config = config

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        import grain

        rows = grain.MapDataset.source(self._rows)
        with closing(_iterate(rows, self._local_size, *self._process, self._config)) as batches:
            yield from batches


def _iterate(
    rows: grain.MapDataset, local_size: int, process_index: int, process_count: int, config: DataConfig
) -> grain.DatasetIterator:
    """Cuts the rows into batches of `local_size` and takes this process's one of each `process_count` in succession."""
    import grain

    local_batches = rows.batch(local_size)[process_index::process_count]
    threads = min(config.read_threads, config.prefetch_batches)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch_batches if threads else 0)
    return iter(local_batches.to_iter_dataset(options))


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}: expected an index from 0 to below the count")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"the global batch size {batch_size} can't be divided among {process_count} processes; "
            f"make it a positive multiple of {process_count}"
        )
    return batch_size // process_count


def _grain_seed(seed: int) -> int:
    """A 32-bit seed far from those of neighbouring numbers: grain shuffles epoch e with seed + e."""
    mixed = (seed + 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 % 2**64
    return mixed >> 32
