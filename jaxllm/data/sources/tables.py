"""Parquet and Arrow IPC files, a document a row."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxllm.data.documents import Document
from jaxllm.data.sources.reading import Input

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are turned into Python strings at a time.
_ROWS = 1024


class _Refused(Exception):
    """The table can't give documents; what is wrong is reported already."""


def read_parquet(source: Input) -> Iterator[Document]:
    """The row groups from `start` to `stop`."""
    if not _has_arrow(source):
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.seekable() as stream:
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            columns = _columns(source, file.schema_arrow)
        except _Refused:
            return
        except (pa.ArrowException, OSError) as error:
            _raise_if_disk(error)
            source.problem(f"is not a readable Parquet file: {error}")
            return
        with file:
            row = source.first
            for group in range(source.start, file.num_row_groups if source.stop is None else source.stop):
                rows = file.metadata.row_group(group).num_rows
                batches = file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns)
                try:
                    yield from _documents(source, batches, row)
                except (pa.ArrowException, OSError) as error:
                    _raise_if_disk(error)
                    where = f"rows {row + 1} to {row + rows}" if file.num_row_groups > 1 else ""
                    source.problem(f"is not a readable Parquet file: {error}", where)
                row += rows


def parquet_row_groups(source: Input) -> list[tuple[int, int]]:
    """The rows and compressed bytes of each row group; empty if the file can't be read, which reading will report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with source.open() as stream, pq.ParquetFile(stream) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            return [
                (group.num_rows, sum(group.column(column).total_compressed_size for column in range(group.num_columns)))
                for group in groups
            ]
    except (pa.ArrowException, OSError):
        return []


def read_arrow(source: Input) -> Iterator[Document]:
    """An Arrow IPC file (also called Feather), or a stream, as the library `datasets` keeps them."""
    if not _has_arrow(source):
        return
    import pyarrow as pa

    with source.seekable() as stream:
        try:
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
            columns = _columns(source, reader.schema)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
            small = (whole.select(columns)[at : at + _ROWS] for whole in batches for at in range(0, len(whole), _ROWS))
            yield from _documents(source, small, 0)
        except _Refused:
            return
        except (pa.ArrowException, OSError) as error:
            _raise_if_disk(error)
            source.problem(f"is not a readable Arrow file: {error}")


def _has_arrow(source: Input) -> bool:
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        kind = "." + source.path.removesuffix(source.compression).rpartition(".")[2].lower()
        source.problem(f"{kind} needs the package pyarrow, which is not installed: pip install pyarrow")
        return False
    return True


def _raise_if_disk(error: Exception) -> None:
    """An IO error that carries an errno is the disk's, one without it is what pyarrow calls damaged data."""
    if getattr(error, "errno", None) is not None:
        raise error


def _columns(source: Input, schema: pa.Schema) -> list[str]:
    """The columns to read: the text first, then what becomes metadata."""
    import pyarrow as pa

    wanted, types = source.settings.text_field, pa.types
    if wanted not in schema.names:
        source.problem(f"has no column {wanted!r}; its columns are {schema.names}")
        raise _Refused
    column = schema.field(wanted).type
    value = column.value_type if types.is_dictionary(column) else column
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        source.problem(f"the column {wanted!r} must hold strings, found {column}")
        raise _Refused
    chosen = source.settings.metadata_fields
    if chosen is None:  # embeddings and other lists are not what a document is to carry along unasked
        others = [field.name for field in schema if not types.is_nested(field.type) and not types.is_binary(field.type)]
    else:
        others = [name for name in schema.names if name in chosen]
    return [wanted, *(name for name in others if name != wanted)]


def _documents(source: Input, batches: Iterator[pa.RecordBatch], row: int) -> Iterator[Document]:
    for batch in batches:
        others = [(name, _values(source, name, batch.column(name), row)) for name in batch.schema.names[1:]]
        texts = batch.column(0)
        for at in range(len(batch)):
            row += 1
            try:
                text = texts[at].as_py()
            except UnicodeDecodeError as error:
                source.problem(f"is not UTF-8 text: {error}", f"row {row}")
                continue
            if text is None:
                source.problem(f"the column {batch.schema.names[0]!r} is null", f"row {row}")
                continue
            metadata = {name: json_value(values[at]) for name, values in others if values[at] is not None}
            yield Document(f"{source.name}:{row}", text, metadata)


def _values(source: Input, name: str, column: pa.Array, row: int) -> list[Any]:
    """A column as Python values, None where there is none, which is reported; `row` is how many rows came before."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        if pa.types.is_temporal(column.type):  # nanoseconds, and years that Python does not have
            return [text and text.replace(" ", "T") for text in column.cast(pa.string()).to_pylist()]
    values = []
    for number, value in enumerate(column, start=row + 1):
        try:
            values.append(value.as_py())
        except (ValueError, OverflowError) as error:
            source.problem(f"the column {name!r} can't be read: {error}", f"row {number}")
            values.append(None)
    return values


def json_value(value: Any) -> Any:
    """A value of a table as one that JSON can hold."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, float) and value - value != 0:  # NaN and infinity are no JSON
        return None
    if isinstance(value, list):
        return [json_value(one) for one in value]
    if isinstance(value, dict):
        return {str(name): json_value(one) for name, one in value.items()}
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
