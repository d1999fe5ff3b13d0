"""The smallest engine there can be: batches, partitions and matches in memory, cut as a test likes."""

import numpy as np
import pyarrow as pa

from jaxllm.data.records import make_batch
from jaxllm.data.stages import judged


def batch_of(texts, names=None, metadata=None) -> pa.RecordBatch:
    names = names or [f"d{row:06d}" for row in range(len(texts))]
    return make_batch(names, ["test"] * len(texts), texts, metadata or [{}] * len(texts))


def resolved(stage, batches, partitions: int = 1):
    """What the last resolve of a CrossStage gives: a table of documents to drop, or a Stage."""
    while True:
        rows = pa.concat_tables([stage.keys(batch) for batch in batches]).combine_chunks()
        partition = (rows["key"].to_numpy() % np.uint64(10007)) % np.uint64(partitions)
        found = stage.resolve(
            pa.concat_tables([stage.match(rows.filter(pa.array(partition == part))) for part in range(partitions)])
        )
        if not hasattr(found, "resolve"):
            return found
        stage = found


def left(stage, texts, rows: int | None = None, partitions: int = 1, **columns) -> dict[str, str]:
    """Runs a CrossStage over texts in batches of so many rows: the texts that stay, by id."""
    whole = batch_of(texts, **columns)
    rows = rows or max(len(texts), 1)
    batches = [whole.slice(first, rows) for first in range(0, max(len(texts), 1), rows)]
    found = resolved(stage, batches, partitions)
    if isinstance(found, pa.Table):
        reasons = dict(zip(found["id"].to_pylist(), found["reason"].to_pylist(), strict=True))
        outcomes = [judged(one, stage.name, [reasons.get(name) for name in one["id"].to_pylist()]) for one in batches]
    else:
        outcomes = [found(batch) for batch in batches]
    kept = pa.Table.from_batches([outcome.kept for outcome in outcomes])
    return dict(zip(kept["id"].to_pylist(), kept["text"].to_pylist(), strict=True))
