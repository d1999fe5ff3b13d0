"""Files of an output directory: each is there as a whole or not at all, and known by its size and SHA-256."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxllm.data.atomic import Written, new_file
from jaxllm.data.records import BATCH_BYTES, BATCH_ROWS

# zstd's own default.
_COMPRESSION = {"compression": "zstd", "compression_level": 3}


def write_json(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Writes a value as JSON, whole or not at all."""
    with new_file(path, lasting=lasting) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False).encode())


def read_json(path: Path) -> Any:
    """What a JSON file holds, None if there is no such file. Raises ValueError, naming it, if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: is damaged: {error}") from error


def matches(path: Path, size: int) -> bool:
    """Whether a file is there, with this size."""
    return path.is_file() and path.stat().st_size == size


class Rows:
    """Takes batches for a Parquet file, in row groups of about a batch each; made by new_parquet."""

    def __init__(self, schema: pa.Schema, open_file: Callable[[], Written]):
        self._schema, self._open_file = schema, open_file
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self.rows = 0
        self.file: Written | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        if not len(batch):
            return
        self._waiting.append(batch)
        self.rows += len(batch)
        self._rows += len(batch)
        self._bytes += batch.nbytes
        if self._rows >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        self._begin()
        self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self._rows, self._bytes = [], 0, 0

    def _begin(self) -> None:
        if self._writer is None:
            self.file = self._open_file()
            self._writer = pq.ParquetWriter(self.file, self._schema, **_COMPRESSION)

    def finish(self, unless_empty: bool) -> None:
        if self._waiting:
            self._write_group()
        if not unless_empty:
            self._begin()
        if self._writer is not None:
            self._writer.close()

    def described(self) -> dict[str, Any]:
        """What the manifest says of the file."""
        return {"documents": self.rows, "bytes": self.file.size, "sha256": self.file.sha256}


@contextmanager
def new_parquet(path: Path, schema: pa.Schema, *, unless_empty: bool = False, lasting: bool = True) -> Iterator[Rows]:
    """Gives a Parquet file to fill, which is there when the block has ended without an error.

    unless_empty: makes no file as long as no row is written.
    """
    with ExitStack() as opened:
        rows = Rows(schema, lambda: opened.enter_context(new_file(path, lasting=lasting)))
        yield rows
        rows.finish(unless_empty)


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The row groups of a file that ParquetFile wrote, one at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).combine_chunks()
            yield from table.to_batches()
