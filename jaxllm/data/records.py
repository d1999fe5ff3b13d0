"""Documents as Arrow record batches, the form in which they flow from a source to the token store.

A batch has four columns: `id` (unique in a whole recipe, "source/name"), `source`, `text`, and `metadata`, a JSON
object as text. They stay with a document to the end, so that whatever is found later can be traced to its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxllm.data.documents import Document

SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("text", pa.large_string()), ("metadata", pa.string())]
)

# A batch is small enough to be held many times over and large enough that work on columns pays.
BATCH_ROWS = 1000
BATCH_BYTES = 16 * 2**20


def records(
    documents: Iterable[Document], source: str, *, rows: int = BATCH_ROWS, num_bytes: int = BATCH_BYTES
) -> Iterator[pa.RecordBatch]:
    """Gathers documents into batches of at most `rows`, ended early once their text has `num_bytes` or more."""
    waiting: list[Document] = []
    size = 0
    for document in documents:
        waiting.append(document)
        size += len(document.text)
        if len(waiting) >= rows or size >= num_bytes:
            yield _batch(waiting, source)
            waiting, size = [], 0
    if waiting:
        yield _batch(waiting, source)


def _batch(documents: Sequence[Document], source: str) -> pa.RecordBatch:
    return make_batch(
        ids=[f"{source}/{document.name}" for document in documents],
        sources=[source] * len(documents),
        texts=[document.text for document in documents],
        metadata=[document.metadata for document in documents],
    )


def make_batch(
    ids: Sequence[str], sources: Sequence[str], texts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> pa.RecordBatch:
    """A batch from its columns; metadata must be what JSON can hold."""
    written = [json.dumps(dict(one), ensure_ascii=False, sort_keys=True) for one in metadata]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind) for column, kind in zip((ids, sources, texts, written), SCHEMA.types, strict=True)],
        schema=SCHEMA,
    )


def texts_of(batch: pa.RecordBatch) -> list[str]:
    """The texts of a batch as Python strings."""
    return batch.column("text").to_pylist()
