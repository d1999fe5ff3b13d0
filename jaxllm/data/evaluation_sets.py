"""The texts of evaluation sets, of whatever fields a set has, for the search of them in training documents."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.data.compression import CompressionError, compression_of, decompressed

KINDS = (".jsonl", ".csv", ".txt", ".parquet")


class EvaluationSetError(ValueError):
    """An evaluation set can't be read; the message names the file and the place in it."""


@dataclass(frozen=True)
class EvaluationSet:
    """A benchmark that must not be trained on."""

    name: str
    path: str
    """a file, a folder or a glob of .jsonl, .csv and .txt files, which may be compressed, and of .parquet files"""
    fields: tuple[str, ...] = ()
    """the fields to search for, everything below them too; () means every text that there is"""


@dataclass(frozen=True)
class EvaluationText:
    """One text of one item."""

    benchmark: str
    item: str
    """"test.jsonl:12 question": file, line or row (from 1), and field"""
    text: str


def evaluation_texts(chosen: EvaluationSet) -> Iterator[EvaluationText]:
    """All texts of a set, item by item. A line of a .txt file is an item; the rows of a .csv file without the header.

    A column of a .csv file is named by its first row, since it can't be told whether there is a header; that row is
    searched for as well. Raises EvaluationSetError for a path without files, and for what can't be read.
    """
    found = False
    for path, name in _files(chosen):
        for place, row in _rows(path):
            for field, text in _texts(row, ""):
                if not chosen.fields or field.split(".")[0] in chosen.fields:
                    found = True
                    yield EvaluationText(chosen.name, f"{name}:{place} {field}".rstrip(), text)
    if not found:
        wanted = f"fields {', '.join(chosen.fields)}" if chosen.fields else "text"
        raise EvaluationSetError(f"{chosen.path}: the evaluation set {chosen.name!r} has no {wanted}")


def _kind(path: Path) -> str:
    return (path.with_suffix("") if compression_of(path.name) else path).suffix.lower()


def _files(chosen: EvaluationSet) -> list[tuple[Path, str]]:
    path = os.path.expanduser(chosen.path)
    if os.path.isfile(path):
        if _kind(Path(path)) not in KINDS:
            raise EvaluationSetError(f"{path}: is of no supported kind; supported are {', '.join(KINDS)}")
        return [(Path(path), os.path.basename(path))]
    pattern = os.path.join(glob.escape(path), "**", "*") if os.path.isdir(path) else path
    root = Path(path) if os.path.isdir(path) else Path(path).parent
    files = sorted(Path(one) for one in glob.glob(pattern, recursive=True) if _kind(Path(one)) in KINDS)
    if not files:
        raise EvaluationSetError(f"{path}: no file of the kinds {', '.join(KINDS)} is there")
    return [(one, os.path.relpath(one, root)) for one in files]


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        lines = _lines(path)
        match kind:
            case ".jsonl":
                yield from ((number, _json(line, path, number)) for number, line in enumerate(lines, 1) if line.strip())
            case ".csv":
                # The text of a passage may be longer than what the csv module takes for an accident.
                csv.field_size_limit(2**31 - 1)
                yield from _csv_rows(lines)
            case _:
                yield from enumerate(lines, start=1)
    except (CompressionError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationSetError(f"{path}: can't be read: {error}") from error
    except OSError as error:
        raise EvaluationSetError(f"{path}: can't be read: {error.strerror or error}") from error


def _lines(path: Path) -> io.StringIO:
    """All of a file, which is small as evaluation sets go."""
    with open(path, "rb") as stream:
        content = b"".join(piece.data for piece in decompressed(stream, compression_of(path.name)))
    return io.StringIO(content.decode("utf-8-sig"), newline="")


def _json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationSetError(f"{path}, line {number}: is not valid JSON: {error}") from error


def _csv_rows(lines: io.StringIO) -> Iterator[tuple[int, dict[str, str]]]:
    names: list[str] = []
    for number, row in enumerate(csv.reader(lines), start=1):
        names = names or row
        padded = [*names, *(f"column {column + 1}" for column in range(len(names), len(row)))]
        yield number, dict(zip(padded, row, strict=False))


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise EvaluationSetError(f"{path}: is not a readable Parquet file: {error}") from error


def _texts(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, with the dotted names that lead to it."""
    match value:
        case str():
            yield field, value
        case dict():
            for name, inner in value.items():
                yield from _texts(inner, f"{field}.{name}" if field else str(name))
        case list():
            for inner in value:
                yield from _texts(inner, field)
