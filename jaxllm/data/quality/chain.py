"""Filters as stages, one at a time or many in a row that share what they find out about a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jaxllm.data.quality.text_statistics import TextStatistics
from jaxllm.data.records import SCHEMA, texts_of
from jaxllm.data.stages import DROPPED_SCHEMA, Outcome

# Texts that filters look at together: enough for those that work on arrays, and few, since the words of a text take
# fifteen times its memory.
_TOGETHER = 64


@dataclass(frozen=True)
class Screening:
    """What a filter says of some texts, one entry each."""

    reasons: Sequence[str | None]
    """why a document goes, None where it stays"""
    texts: Sequence[str] | None = None
    """new texts, from a filter that removes lines"""
    counts: Mapping[str, int] = field(default_factory=dict)
    """what else it counted"""
    notes: Sequence[Mapping[str, Any]] | None = None
    """what to add to the documents' metadata"""


class Filter:
    """A stage that keeps a document or says why not.

    A filter is a frozen dataclass with a `name` that defines `reason`, or `screen` where looking at many texts at once
    is faster or more is to be said of them. None as a threshold turns a rule off.
    """

    name: str

    def reason(self, text: TextStatistics) -> str | None:
        raise NotImplementedError

    def screen(self, texts: Sequence[TextStatistics]) -> Screening:
        return Screening([self.reason(text) for text in texts])

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        return _run(batch, (self,))[0]


@dataclass(frozen=True)
class Chain:
    """Filters in a row as one stage: each text is split into words once, for all of them.

    Gives what the filters give when they are run one after another. Each dropped document carries the name of the
    filter that dropped it. The counts are those of the filters, with their names, as "c4 quality: lines kept", and for
    each filter "...: documents" that came to it.
    """

    filters: tuple[Filter, ...]
    name: str = "quality"

    def __post_init__(self):
        names = [one.name for one in self.filters]
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"a chain needs filters of different names, to be told apart in its report; found {names}")

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        outcome, counts = _run(batch, self.filters)
        return Outcome(outcome.kept, outcome.dropped, counts)


def _run(batch: pa.RecordBatch, filters: Sequence[Filter]) -> tuple[Outcome, Counter[str]]:
    """The outcome, with the counts of all filters added up, and the counts by filter."""
    texts, metadata = texts_of(batch), batch.column("metadata").to_pylist()
    kept: list[int] = []
    gone: dict[int, tuple[str, str]] = {}
    total: Counter[str] = Counter()
    by_filter = Counter({f"{one.name}: documents": 0 for one in filters})
    for begin in range(0, len(texts), _TOGETHER):
        rows = list(range(begin, min(begin + _TOGETHER, len(texts))))
        found = {row: TextStatistics(texts[row]) for row in rows}
        for one in filters:
            screening = one.screen([found[row] for row in rows])
            total.update(screening.counts)
            by_filter[f"{one.name}: documents"] += len(rows)
            by_filter.update({f"{one.name}: {what}": number for what, number in screening.counts.items()})
            for at, row in enumerate(rows):
                if screening.notes is not None:
                    metadata[row] = _with_notes(metadata[row], screening.notes[at])
                if (reason := screening.reasons[at]) is not None:
                    gone[row] = (one.name, reason)
                elif screening.texts is not None and screening.texts[at] != texts[row]:
                    texts[row] = screening.texts[at]
                    found[row] = TextStatistics(texts[row])
            rows = [row for row in rows if row not in gone]
        kept += rows
    for name, values in (("text", texts), ("metadata", metadata)):
        at = SCHEMA.get_field_index(name)
        batch = batch.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type))
    dropped = batch.take(pa.array(sorted(gone), pa.int64()))
    why = zip(*(gone[row] for row in sorted(gone)), strict=True) if gone else ((), ())
    columns = [*dropped.columns, *(pa.array(words, pa.string()) for words in why)]
    dropped = pa.RecordBatch.from_arrays(columns, schema=DROPPED_SCHEMA)
    return Outcome(batch.take(pa.array(kept, pa.int64())), dropped, total), by_filter


def _with_notes(metadata: str, notes: Mapping[str, Any]) -> str:
    return json.dumps({**json.loads(metadata), **notes}, ensure_ascii=False, sort_keys=True) if notes else metadata
