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
import pyarrow.compute as pc

from jaxllm.data.records import SCHEMA, texts_of

# What says that a part of a document goes.
_PARTS = ("id", "reason", "start", "end")

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

    def resolve(self, matches: pa.Table) -> pa.Table | CrossStage:
        """What goes, from the matches of all partitions: a table for `removed`, with columns `id` and `reason`.

        With `start` and `end` besides, only that part of the document's text goes, in UTF-8 bytes. What has to see the
        documents again before it can tell returns another CrossStage, to be run over the same documents in its place.
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


def removed(batch: pa.RecordBatch, stage: str, found: pa.Table) -> Outcome:
    """Takes out of a batch what the last `resolve` of a CrossStage found: whole documents, or parts of them.

    Counts the parts and their bytes by reason. Ids in `found` that are not in the batch are passed over.
    """
    if "start" not in found.column_names:
        reasons = dict(zip(found["id"].to_pylist(), found["reason"].to_pylist(), strict=True))
        return judged(batch, stage, [reasons.get(name) for name in batch.column("id").to_pylist()])
    here = found.filter(pc.is_in(found["id"], batch.column("id").unique()))
    parts: dict[str, list[tuple[int, int]]] = {}
    counts: dict[str, int] = {}
    for name, reason, start, end in zip(*(here[key].to_pylist() for key in _PARTS), strict=True):
        parts.setdefault(name, []).append((start, end))
        counts[reason] = counts.get(reason, 0) + 1
        counts[f"{reason}, bytes"] = counts.get(f"{reason}, bytes", 0) + end - start
    ids, texts = batch.column("id").to_pylist(), texts_of(batch)
    left = [without(text, parts[name]) if name in parts else text for name, text in zip(ids, texts, strict=True)]
    return rewritten(batch, stage, left, counts)


def without(text: str, parts: Sequence[tuple[int, int]]) -> str:
    """A text less some parts of it, given in UTF-8 bytes; half a character at either end of a part stays whole."""
    data = text.encode()
    kept, at = [], 0
    for start, end in sorted(parts):
        while start < end and data[start] & 0xC0 == 0x80:
            start += 1
        while end > start and end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        if start > at:
            kept.append(data[at:start])
        at = max(at, end)
    return b"".join([*kept, data[at:]]).decode()
