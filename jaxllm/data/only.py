"""Stages for some of the documents: what is right for prose may be wrong for code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jaxllm.data.records import SCHEMA
from jaxllm.data.stages import DROPPED_SCHEMA, Outcome, Stage


@dataclass(frozen=True)
class Only:
    """A stage for the documents of some sources; the others pass by. The order of documents stays as it is."""

    sources: tuple[str, ...]
    stage: Stage

    def __post_init__(self):
        if hasattr(self.stage, "resolve"):
            raise ValueError(f"stage {self.stage.name} compares documents: it must see them all, or none")

    @property
    def name(self) -> str:
        return self.stage.name

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        chosen = np.isin(np.asarray(batch.column("source").to_pylist(), object), self.sources)
        if chosen.all():
            return self.stage(batch)
        outcome = self.stage(batch.filter(pa.array(chosen)))
        dropped = outcome.dropped
        row_of = {name: row for row, name in enumerate(batch.column("id").to_pylist())}
        rows = [_row(name, row_of) for name in outcome.kept.column("id").to_pylist()]
        passed = np.flatnonzero(~chosen)
        order = np.argsort(np.concatenate([np.array(rows, np.int64), passed]), kind="stable")
        together = pa.Table.from_batches([outcome.kept, batch.take(pa.array(passed))], SCHEMA).take(pa.array(order))
        [kept] = together.combine_chunks().to_batches() or [batch.slice(0, 0)]
        assert dropped.schema == DROPPED_SCHEMA
        return Outcome(kept, dropped, outcome.counts)


def _row(name: str, row_of: dict[str, int]) -> int:
    """Where a document was; a piece of one has its id and a number behind it."""
    return row_of[name] if name in row_of else row_of[name.rpartition("#")[0]]
