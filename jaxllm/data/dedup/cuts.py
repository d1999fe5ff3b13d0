"""Cutting what was found more than once out of documents, as a stage that looks at each document alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, rewritten


@dataclass(frozen=True, eq=False)
class Cuts:
    """Takes parts out of documents; a document that has nothing left is dropped. A Stage."""

    name: str
    parts: pa.Table
    """of `id`, `start` and `end`, in UTF-8 bytes of the document's text, sorted by id"""

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        """Counts the parts, and their bytes."""
        texts, counts = texts_of(batch), {f"{self.name}: parts": 0, f"{self.name}: bytes": 0}
        for row, name in enumerate(batch.column("id").to_pylist()):
            if name in self._rows:
                parts = self.parts.slice(*self._rows[name])
                spans = list(zip(parts["start"].to_pylist(), parts["end"].to_pylist(), strict=True))
                texts[row] = without(texts[row], spans)
                counts[f"{self.name}: parts"] += len(spans)
                counts[f"{self.name}: bytes"] += sum(end - start for start, end in spans)
        return rewritten(batch, self.name, texts, counts)

    @functools.cached_property
    def _rows(self) -> dict[str, tuple[int, int]]:
        """For each document the first of its parts, and how many there are."""
        runs = pc.run_end_encode(self.parts["id"].combine_chunks())
        ends = runs.run_ends.to_pylist()
        starts = [0, *ends][: len(ends)]
        return {
            name: (start, end - start) for name, start, end in zip(runs.values.to_pylist(), starts, ends, strict=True)
        }


def without(text: str, parts: Sequence[tuple[int, int]]) -> str:
    """A text less some parts of it, given in UTF-8 bytes; half a character at either end of a part stays whole."""
    data = text.encode()
    kept, at = [], 0
    for start, end in sorted(parts):
        while start < end and data[start] & 0xC0 == 0x80:
            start += 1
        while start < end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        if start > at:
            kept.append(data[at:start])
        at = max(at, end)
    return b"".join([*kept, data[at:]]).decode()
