"""From token stores to batches, for this process, in an order that can be taken up anywhere.

Batch k of a run holds the rows k * B .. (k + 1) * B - 1 of an endless sequence: all rows of the plan, shuffled anew
for each epoch, and those of several sources in the turns of a mixture. It depends on the stores, the seed, the mixture
and the batch size B alone, so neither the number of processes, nor that of threads, nor a restart in between changes
it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.data.config import DataConfig
from jaxllm.data.mixing.schedule import Mixture, plan_mixture
from jaxllm.data.mixing.weights import mixture_weights
from jaxllm.data.packing import PackingPlan, Rewrite, plan_packing
from jaxllm.data.row_order import EndlessRows, MixedRows, RowsInTurn, ShuffledRows, WindowedRows, hash_of, order_rows
from jaxllm.data.token_source import TokenSource

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

_STATE_FORMAT = 1


class TrainLoader:
    """An endless iterator over this process's part of each global batch, with a state that fits into a checkpoint.

    batch_size is the global one; each batch is a dict of arrays [batch_size / process_count, row_length] as pack_row
    describes them, and process p of the `process_count` that read different rows gets the p-th run of rows of
    the global batch. A batch may be larger than an epoch: rows are then repeated within it.

    A loader is used by one thread. Close it, or use it in a `with` block, to let go of its threads.
    """

    def __init__(
        self,
        store: TokenSource | Mapping[str, TokenSource],
        config: DataConfig,
        *,
        row_length: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        steps: int = 0,
        rewrite: Rewrite | None = None,
    ):
        """store: one, or that of each of `config.sources` by name. steps: batches of the whole run, which stages and
        epoch limits of a mixture refer to. rewrite: what is done to pieces of documents, see packing.

        Raises ValueError if batch_size is not divisible by process_count or process_index is out of range, if stages or
        limits have no number of steps to refer to, and for a mixture that can't be had.
        """
        local_size = _local_size(batch_size, process_index, process_count)
        seed = config.shuffle_seed
        packing = {
            "row_length": row_length,
            "packing": config.packing,
            "window": config.packing_window,
            "rewrite": rewrite,
        }
        self._row_length = row_length
        self._identity = {"format": _STATE_FORMAT}
        if isinstance(store, Mapping):
            # Seeds of their own, or sources of one size would be gone through in one order.
            self._orders = {
                name: order_rows(source, seed=hash_of(seed, index), **packing)
                for index, (name, source) in enumerate(store.items())
            }
            self.mixture = make_mixture(config, store, self._orders, batch_size, steps)
            rows = MixedRows(self.mixture, list(self._orders.values()))
            tokens = "; ".join(f"{name} {source.fingerprint}" for name, source in store.items())
            plan = "; ".join(order.fingerprint for order in self._orders.values())
            self._identity |= {"tokens": _digest(tokens), "plan": _digest(plan)}
            self._identity |= {"mixture": self.mixture.fingerprint()}
        else:
            rows = order_rows(store, seed=seed, **packing)
            self._orders = {"": rows}
            self.mixture = None
            self._identity |= {"tokens": store.fingerprint, "plan": rows.fingerprint}
        # What must be equal for a saved state to mean the same batches; the number of processes is not among it.
        self._identity |= {"shuffle_seed": seed, "batch_size": batch_size}
        import grain

        endless = grain.MapDataset.source(EndlessRows(rows))
        self._batches = _local_batches(endless, local_size, process_index, process_count)
        self._iterator = _iterate(self._batches, config)

    def batch_at(self, step: int) -> Batch:
        """This process's part of batch `step`, from 0, wherever the iterator stands. Raises ValueError for step < 0."""
        if step < 0:
            raise ValueError(f"there is no batch {step}: the first is 0")
        return self._batches[step]

    @property
    def plan(self) -> PackingPlan:
        """Of a single source that is packed as a whole."""
        (rows,) = self._orders.values()
        assert isinstance(rows, ShuffledRows), "windows and mixtures have no one plan"
        return rows.plan

    @property
    def next_batch(self) -> int:
        """The number, from 0, of the batch that comes next."""
        return self._iterator.get_state()["next_index"]

    @property
    def epoch(self) -> float:
        """How often the rows have been gone through by the batches given so far; of a mixture, the largest such."""
        return max(self.epochs(self.next_batch).values())

    def rows(self, batches: int) -> dict[str, int]:
        """How many rows of each source the first `batches` batches hold, over all processes."""
        rows = batches * self._identity["batch_size"]
        counts = (rows,) if self.mixture is None else self.mixture.counts(rows)
        return dict(zip(self._orders, counts, strict=True))

    def epochs(self, batches: int) -> dict[str, float]:
        """How often each source has been gone through by the first `batches` batches."""
        return {name: self._orders[name].epochs(rows) for name, rows in self.rows(batches).items()}

    def source_report(self, batches: int) -> dict[str, float]:
        """For the metrics of a mixture: positions that the first `batches` batches fill from each source; epochs."""
        if self.mixture is None:
            return {}
        tokens = {f"tokens/{name}": rows * self._row_length for name, rows in self.rows(batches).items()}
        return tokens | {f"epochs/{name}": round(epochs, 4) for name, epochs in self.epochs(batches).items()}

    @property
    def utilization(self) -> dict[str, float]:
        """The part of all positions that holds a pair rather than padding, by source; of windows, of those planned."""
        return {
            name: order.utilization if isinstance(order, WindowedRows) else order.plan.utilization
            for name, order in self._orders.items()
        }

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
                "resume with the same corpus, packing, row length, seed and batch size (of a mixture with stages or "
                "epoch limits also the same number of steps), or start a new run"
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
    `len()` is the number of batches. Several stores take turns, so that the first batches are of all of them.
    """

    def __init__(
        self,
        store: TokenSource | Mapping[str, TokenSource],
        config: DataConfig,
        *,
        row_length: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Raises ValueError if batch_size is not divisible by process_count or process_index is out of range."""
        local_size = _local_size(batch_size, process_index, process_count)
        stores = list(store.values()) if isinstance(store, Mapping) else [store]
        plans = [
            plan_packing(each.lengths, row_length, packing=config.packing, seed=config.shuffle_seed) for each in stores
        ]
        self.plan = plans[0]
        self._batches = -(-sum(plan.num_rows for plan in plans) // batch_size)
        self._rows = RowsInTurn(plans, stores, padded_to=self._batches * batch_size)
        self._place = (local_size, process_index, process_count)
        self._config = config

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        import grain

        rows = grain.MapDataset.source(self._rows)
        with closing(_iterate(_local_batches(rows, *self._place), self._config)) as batches:
            yield from batches


def make_mixture(
    config: DataConfig,
    stores: Mapping[str, TokenSource],
    orders: Mapping[str, ShuffledRows | WindowedRows],
    batch_size: int,
    steps: int,
) -> Mixture:
    """The turns of the sources of a config over a run of `steps` batches.

    Raises ValueError where the stores are not those of the config's sources, where stages or limits of epochs need the
    number of steps, and for limits that can't be kept.
    """
    names = [source.name for source in config.sources]
    if list(stores) != names:
        raise ValueError(f"the stores {list(stores)} are not those of data.sources, {names}")
    upsampling = [source.upsampling for source in config.sources]
    sizes = [source.weight or stores[source.name].num_tokens for source in config.sources]
    limits = [
        source.max_epochs * orders[source.name].rows_per_epoch if source.max_epochs else math.inf
        for source in config.sources
    ]
    if steps < 1 and (config.stages or any(map(math.isfinite, limits))):
        raise ValueError("stages and max_epochs of a mixture refer to the number of steps of the run: give `steps`")
    first = mixture_weights(sizes, temperature=config.temperature, upsampling=upsampling)
    stages = [(0, first), *((round(stage.start * steps) * batch_size, stage.weights) for stage in config.stages)]
    try:
        return plan_mixture(stages, rows=steps * batch_size, limits=limits)
    except ValueError as error:
        raise ValueError(f"the mixture of {', '.join(names)} over {steps} steps can't be had: {error}") from error


def _local_batches(rows: grain.MapDataset, local_size: int, process_index: int, process_count: int) -> grain.MapDataset:
    """Cuts the rows into batches of `local_size` and takes this process's one of each `process_count` in succession."""
    return rows.batch(local_size)[process_index::process_count]


def _iterate(batches: grain.MapDataset, config: DataConfig) -> grain.DatasetIterator:
    import grain

    threads = min(config.read_threads, config.prefetch_batches)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=config.prefetch_batches if threads else 0)
    return iter(batches.to_iter_dataset(options))


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}: expected an index from 0 to below the count")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"the global batch size {batch_size} can't be divided among {process_count} processes; "
            f"make it a positive multiple of {process_count}"
        )
    return batch_size // process_count


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
