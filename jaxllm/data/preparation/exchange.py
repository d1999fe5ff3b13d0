"""Rows on their way from those who have them to those who need them: a file for each sender, cut by receiver.

A file is an Arrow IPC file whose record batch i is what receiver i gets, so that a receiver reads its part of every
file and no more, and many senders and receivers don't make many times many files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxllm.data.atomic import new_file

# Keys of a stage may be small, or differ in few bits. Folded in two and multiplied by this odd number, the bits that
# count depend on all bits of a key.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def receivers_of(keys: pa.ChunkedArray, count: int) -> np.ndarray:
    """Which of `count` receivers each uint64 key goes to; the same key always to the same one."""
    found = keys.to_numpy().astype(np.uint64, copy=False)
    spread = (found ^ (found >> np.uint64(32))) * _SPREAD
    return ((spread >> np.uint64(32)) % np.uint64(count)).astype(np.int64)


def send(path: Path, rows: pa.Table, receivers: np.ndarray, count: int) -> int:
    """Writes the rows, those of each receiver together and in the order they had; returns the bytes of the file."""
    order = np.argsort(receivers, kind="stable")
    ends = np.searchsorted(receivers[order], np.arange(count + 1))
    rows = rows.take(pa.array(order)).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with new_file(path, lasting=False) as file, pa.ipc.new_file(file, rows.schema, options=options) as writer:
        for begin, end in zip(ends, ends[1:], strict=False):
            writer.write_batch(one_batch(rows.slice(begin, end - begin)))
    return file.size


def one_batch(rows: pa.Table) -> pa.RecordBatch:
    """A table of one chunk as a batch. Raises ValueError for one of several, which strings beyond 2 GiB stay in."""
    batches = rows.to_batches()
    if len(batches) > 1:
        raise ValueError(
            f"{len(rows):,} rows ({rows.nbytes:,} bytes) of one shard are too large for one partition: make shards "
            "smaller (shard_bytes)"
        )
    return batches[0] if batches else pa.RecordBatch.from_pylist([], rows.schema)


def receive(paths: Iterable[Path], receiver: int) -> pa.Table:
    """What all senders have for one receiver, in the senders' order."""
    parts = []
    for path in paths:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            parts.append(pa.Table.from_batches([file.get_batch(receiver)], file.schema))
    return pa.concat_tables(parts)
