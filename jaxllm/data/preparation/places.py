"""The places of documents, "SHARD/ROW", under which stages that compare documents see them.

Not their ids: by its place that document is dropped which is meant, even where ids are not unique, and it is found
without a search among all. The order of places is the order of reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxllm.data.records import SCHEMA
from jaxllm.data.stages import Outcome

AT_ID = SCHEMA.get_field_index("id")


def placed(batches: Iterable[pa.RecordBatch], shard: str) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Each batch of a shard, and the places of its documents."""
    row = 0
    for batch in batches:
        yield batch, pa.array([f"{shard}/{row + i:09d}" for i in range(len(batch))], pa.string())
        row += len(batch)


def with_ids(outcome: Outcome, places: pa.Array, ids: pa.Array) -> Outcome:
    """What a stage made of documents that it knew by their places, under their ids again."""

    def named(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(AT_ID, SCHEMA.field(AT_ID), ids.take(pc.index_in(batch.column("id"), places)))

    return Outcome(named(outcome.kept), named(outcome.dropped), outcome.counts)


def rows_of(places: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(shard numbers, rows in the shards) of places."""
    pairs = [place.split("/") for place in places.to_pylist()]
    return np.array([int(s) for s, _ in pairs], np.int64), np.array([int(r) for _, r in pairs], np.int64)
