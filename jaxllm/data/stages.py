"""What happens to documents between a source and the token store: stages, as pure functions of record batches.

Two kinds. A `Stage` looks at each document alone, so batches may go through it in any order, process or machine. A
`CrossStage` compares documents with each other: `keys` maps each batch to rows that must meet, `match` looks at rows
that share a key, `resolve` says which documents go. Engines know these three steps and nothing of what is in them.

A stage is a frozen dataclass of plain values: it is pickled to workers, and its repr is its fingerprint. What is heavy
(a language model, a word list) is named by a path and opened where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from jaxllm.data.records import SCHEMA

# What is known of a document that was dropped: itself, the stage, and why, in words that are the same for all
# documents dropped for the same reason.
DROPPED_SCHEMA = pa.schema([*SCHEMA, ("stage", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Outcome:
    """What a stage made of a batch: two batches of SCHEMA and DROPPED_SCHEMA, in the order they came."""

    kept: pa.RecordBatch
    dropped: pa.RecordBatch
    counts: Mapping[str, int] = field(default_factory=dict)
    """what else was counted, as {"e-mail address": 12}; the funnel report adds these up"""


class Stage(Protocol):
    """A step that looks at each document alone."""

    @property
    def name(self) -> str: ...

    def __call__(self, batch: pa.RecordBatch) -> Outcome: ...


class CrossStage(Protocol):
    """A step that compares documents with each other; every table may be larger than memory in all."""

    @property
    def name(self) -> str: ...

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        """Rows with a column `key` (uint64) and what `match` needs; rows with equal keys come to one call of match."""
        ...

    def match(self, rows: pa.Table) -> pa.Table:
        """What was found among the rows of one partition (any number of whole keys), as a table of its own schema."""
        ...

    def resolve(self, matches: pa.Table) -> pa.Table | Stage | CrossStage:
        """What follows from the matches of all partitions.

        A table with columns `id` and `reason`: the documents to drop. Or a stage that changes each document by itself.
        Or another stage that compares, for another round over the same documents.
        """
        ...


def judged(batch: pa.RecordBatch, stage: str, reasons: Sequence[str | None]) -> Outcome:
    """Drops each document that has a reason; keeps those with None."""
    dropped = pa.array([reason is not None for reason in reasons], pa.bool_())
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    gone = batch.filter(dropped)
    why = [reason for reason in reasons if reason is not None]
    columns = [*gone.columns, pa.array([stage] * len(why), pa.string()), pa.array(why, pa.string())]
    return Outcome(batch.filter(kept), pa.RecordBatch.from_arrays(columns, schema=DROPPED_SCHEMA))


def rewritten(
    batch: pa.RecordBatch, stage: str, texts: Sequence[str], counts: Mapping[str, int] | None = None
) -> Outcome:
    """Gives each document its new text; one that has none left is dropped as it was before, as "nothing left"."""
    outcome = judged(batch, stage, [None if text and not text.isspace() else "nothing left" for text in texts])
    left = [text for text in texts if text and not text.isspace()]
    at = SCHEMA.get_field_index("text")
    kept = outcome.kept.set_column(at, SCHEMA.field(at), pa.array(left, SCHEMA.field(at).type))
    return Outcome(kept, outcome.dropped, dict(counts or {}))
