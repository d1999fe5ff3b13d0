"""Documents, and reading them from text, markdown, JSON lines and Parquet files, plain or compressed.

A document has a name that stays the same wherever its folder lies, so that a split by name never moves.
"""

import codecs
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jaxllm.data.compression import SUFFIXES as COMPRESSION_SUFFIXES
from jaxllm.data.compression import CompressionError, compression_of, open_decompressed

# Rows of a Parquet row group that are turned into Python strings at a time.
_PARQUET_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One text with a name that is unique within its source."""

    name: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """what its source knows of it (an address, a date, a language), in values that JSON can hold"""


class DocumentError(ValueError):
    """A source of documents can't be read; the message names the file and the place in it."""


def read_documents(path: str) -> Iterator[Document]:
    """Reads the documents of a file, of a folder (with its subfolders) or of a glob such as "corpus/**/*.jsonl.gz".

    A .txt or .md file is one document; each line of a .jsonl file (field `text`) and each row of a .parquet file
    (column `text`) is one. All but .parquet are UTF-8, and line ends are kept as they are. Any of them may also end in
    .gz or .zst.

    Files come in the order of their paths below the folder (for a glob: below its part without wildcards), and these
    relative paths are the documents' names, with ":N" for line or row N, counted from 1. In folders, hidden files and
    files of other kinds are passed over. One line or one Parquet batch is in memory at a time.

    Raises DocumentError for a path that does not exist or yields no file, a named file of another kind, and any file
    that is empty, damaged or malformed.
    """
    for file, name in _find_files(os.path.expanduser(path)):
        yield from _read_file(file, name)


def _read_file(path: Path, name: str) -> Iterator[Document]:
    read = _READERS[_kind_of(path)]
    found = False
    try:
        for document in read(path, name):
            found = True
            yield document
    except CompressionError as error:
        raise DocumentError(f"{path}: {error}") from error
    except OSError as error:
        raise DocumentError(f"{path}: can't be read: {error.strerror or error}") from error
    if not found:
        raise DocumentError(f"{path}: is empty; remove it, or give it some text")


# Finding files


def _kind_of(path: Path) -> str:
    """The suffix that says how a file is read, below any compression suffix, or "" if it is of no supported kind."""
    plain = path.with_suffix("") if compression_of(path) else path
    suffix = plain.suffix.lower()
    return suffix if suffix in _READERS else ""


def _supported() -> str:
    return f"{', '.join(_READERS)}, each also with {' or '.join(COMPRESSION_SUFFIXES)}"


def _find_files(path: str) -> list[tuple[Path, str]]:
    """The supported files that a path stands for, each with its name, sorted by name."""
    if os.path.isfile(path):
        if not _kind_of(Path(path)):
            raise DocumentError(f"{path}: is of no supported kind; supported are {_supported()}")
        return [(Path(path), os.path.basename(path))]
    if os.path.isdir(path):
        root, candidates = path, _walk(path)
        searched = f"{path}: the folder holds"
    elif glob.has_magic(path):
        root = _fixed_part(path)
        matches = glob.glob(path, recursive=True)
        if not matches:
            raise DocumentError(f"{path}: no file matches this pattern")
        candidates = {file for match in matches for file in (_walk(match) if os.path.isdir(match) else [match])}
        searched = f"{path}: the pattern matches"
    else:
        raise DocumentError(f"{path}: no such file or folder")
    named = sorted((Path(os.path.relpath(file, root)).as_posix(), Path(file)) for file in candidates)
    files = [(file, name) for name, file in named if _kind_of(file)]
    if not files:
        raise DocumentError(f"{searched} {len(named)} files, none of them of a supported kind: {_supported()}")
    return files


def _walk(folder: str) -> list[str]:
    """Every visible file below a folder, links followed, each real folder entered once."""

    def refuse(error: OSError):
        raise DocumentError(f"{error.filename}: can't be listed: {error.strerror}") from error

    files, entered = [], {os.path.realpath(folder)}
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=refuse):
        enter = []
        for subfolder in sorted(subfolders):
            real = os.path.realpath(os.path.join(parent, subfolder))
            if not subfolder.startswith(".") and real not in entered:
                entered.add(real)
                enter.append(subfolder)
        subfolders[:] = enter
        files += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return files


def _fixed_part(pattern: str) -> str:
    """The folder in front of the first path component with a wildcard."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return str(fixed)


# Reading one file


def _decode(raw: bytes, path: Path, offset: int, line: int | None = None) -> str:
    """Bytes to text; `offset` is where they begin in the decompressed file. A byte order mark there is no text."""
    marked = offset == 0 and raw.startswith(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8-sig" if marked else "utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start + (len(codecs.BOM_UTF8) if marked else 0)
        where = f" (line {line})" if line else ""
        byte = f"byte 0x{error.object[error.start]:02x} at offset {at}{where}"
        raise DocumentError(f"{path}: is not UTF-8 text: {byte} can't be decoded; convert the file to UTF-8") from error


def _read_text(path: Path, name: str) -> Iterator[Document]:
    with open_decompressed(path) as stream:
        text = _decode(stream.read(), path, offset=0)
    if text and not text.isspace():
        yield Document(name, text)


def _read_jsonl(path: Path, name: str) -> Iterator[Document]:
    offset = 0
    with open_decompressed(path) as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, path, offset, line=number)
            offset += len(raw)
            if line and not line.isspace():
                yield Document(f"{name}:{number}", _text_of_json(line, f"{path}, line {number}"))


def _text_of_json(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DocumentError(f"{where}: expected an object with a field 'text', found {type(row).__name__}")
    if "text" not in row:
        raise DocumentError(f"{where}: has no field 'text'; its fields are {sorted(row)}")
    text = row["text"]
    if not isinstance(text, str):
        raise DocumentError(f"{where}: the field 'text' must be a string, found {type(text).__name__}")
    # JSON may escape half of a UTF-16 pair, which no encoding of Unicode text can hold.
    if "\\u" in line and any("\ud800" <= character <= "\udfff" for character in text):
        raise DocumentError(f"{where}: the field 'text' holds an unpaired surrogate escape, which is not Unicode text")
    return text


def _read_parquet(path: Path, name: str) -> Iterator[Document]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DocumentError(
            f"{path}: .parquet needs the package pyarrow, which is not installed: pip install pyarrow"
        ) from error
    row = 0
    try:
        with _seekable(path) as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
            _check_text_column(path, file.schema_arrow, pa.types)
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group], columns=["text"]):
                    for value in batch.column("text"):
                        row += 1
                        text = value.as_py()
                        if text is None:
                            raise DocumentError(f"{path}, row {row}: the column 'text' is null")
                        yield Document(f"{name}:{row}", text)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}, row {row}: is not UTF-8 text: {error}") from error
    # An IO error that carries an errno is the disk's, one without it is what pyarrow calls damaged data.
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise DocumentError(f"{path}: is not a readable Parquet file: {error}") from error


def _check_text_column(path: Path, schema, types) -> None:
    if "text" not in schema.names:
        raise DocumentError(f"{path}: has no column 'text'; its columns are {schema.names}")
    column = schema.field("text").type
    value = column.value_type if types.is_dictionary(column) else column
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        raise DocumentError(f"{path}: the column 'text' must hold strings, found {column}")


@contextmanager
def _seekable(path: Path) -> Iterator[BinaryIO]:
    """Parquet is read from its end, so a compressed one is first unpacked into an unnamed temporary file."""
    with open_decompressed(path) as stream:
        if not compression_of(path):
            yield stream
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(stream, unpacked)
            unpacked.seek(0)
            yield unpacked


_READERS: dict[str, Callable[[Path, str], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
