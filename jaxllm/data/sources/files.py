"""Files and folders of files as a source: which are read, how they are cut into shards, and the reader of each kind."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Literal

from jaxllm.data.compression import SUFFIXES, CompressionError, compression_of, member_starts
from jaxllm.data.documents import Document
from jaxllm.data.sources.locations import Location, find_locations, is_remote, open_location
from jaxllm.data.sources.reading import Input
from jaxllm.data.sources.shards import Problem, Report, refuse

# The reader of each kind of file, imported when one is met.
_READERS = {
    ".txt": "text:read_text",
    ".md": "text:read_text",
    ".markdown": "text:read_text",
    ".jsonl": "text:read_jsonl",
    ".ndjson": "text:read_jsonl",
    ".parquet": "tables:read_parquet",
    ".arrow": "tables:read_arrow",
    ".feather": "tables:read_arrow",
    ".html": "pages:read_html",
    ".htm": "pages:read_html",
    ".xhtml": "pages:read_html",
    ".warc": "warc:read_warc",
    ".wet": "warc:read_warc",
    ".xml": "wikipedia:read_wiki",
    ".zip": "archives:read_zip",
}

# What can be cut at the members of its compression; Parquet is cut at row groups, JSON lines at lines.
_BY_MEMBERS = {(".warc", ".gz"), (".wet", ".gz"), (".xml", ".bz2")}

# What a full disk says, on which compressed tables are unpacked.
_FULL = (errno.ENOSPC, errno.EDQUOT)

# Small files are read together, but not so many that a shard takes long to list.
_MOST_FILES = 10_000


@dataclass(frozen=True)
class Files:
    """The documents of a file, of a folder with its subfolders, or of a glob such as "gs://bucket/**/*.warc.gz"."""

    path: str
    """a path of this machine, or an address that fsspec knows (gs:// needs the package gcsfs, s3:// s3fs)"""
    name: str = "files"
    """what the documents carry as their source"""
    text_field: str = "text"
    """the field of a JSON line, or the column of a table, that holds the text"""
    metadata_fields: tuple[str, ...] | None = None
    """which of the other fields a document keeps; None for all of a JSON line, and all simple columns of a table"""
    markup: Literal["text", "raw"] = "text"
    """of HTML pages and wiki pages, the main text, or the markup as it is"""
    encoding: Literal["utf-8", "detect"] = "utf-8"
    """of text and JSON lines: what is not UTF-8 is a problem, or is decoded by a guess; HTML and WARC always guess"""
    wiki_namespaces: tuple[int, ...] = (0,)
    """the namespaces of a wiki dump that are read; 0 holds the articles"""
    shard_bytes: int = 256 << 20
    """about how many stored bytes a shard has: smaller files are put together, larger ones cut where that can be"""
    max_document_bytes: int = 256 << 20
    """what would be a longer document is reported and left out, before it is all in memory"""

    def __post_init__(self):
        if self.shard_bytes < 1 or self.max_document_bytes < 1:
            raise ValueError(
                f"shard_bytes and max_document_bytes must be positive, got {self.shard_bytes} and "
                f"{self.max_document_bytes}"
            )
        for field, values in (("markup", ("text", "raw")), ("encoding", ("utf-8", "detect"))):
            if getattr(self, field) not in values:
                raise ValueError(f"{field} must be one of {values}, got {getattr(self, field)!r}")

    def shards(self) -> list[FileShard]:
        """Lists the files, and looks into large ones for places to cut them."""
        groups, size = [[]], 0
        for location in find_locations(self.path, _is_read, supported()):
            parts = _cut(location, self)
            if groups[-1] and (size + location.num_bytes > self.shard_bytes or len(groups[-1]) >= _MOST_FILES):
                groups.append([])
                size = 0
            size += location.num_bytes
            groups[-1].append(parts[0])
            groups += [[part] for part in parts[1:]]
        return [FileShard(tuple(group), self) for group in groups if group]


@dataclass(frozen=True)
class Part:
    """A file, or the rows, lines or members of one from `start` to `stop`."""

    location: Location
    start: int = 0
    stop: int | None = None
    first: int = 0
    """how many lines or rows lie in front of `start`"""
    num_bytes: int = 0


@dataclass(frozen=True)
class FileShard:
    """Some files, or a part of one."""

    parts: tuple[Part, ...]
    settings: Files

    @property
    def name(self) -> str:
        first = self.parts[0]
        more = f"+{len(self.parts) - 1}" if len(self.parts) > 1 else ""
        return first.location.name + (f"@{first.start}" if first.start else "") + more

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    @property
    def version(self) -> str:
        return hashlib.sha256(repr((self.parts, self.settings)).encode()).hexdigest()[:16]

    def read(self, report: Report = refuse) -> Iterator[Document]:
        for part in self.parts:
            yield from _read(part, self.settings, report)


def supported() -> str:
    return f"{', '.join(_READERS)}, each also with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _kind_of(path: str) -> str:
    """The suffix that says how a file is read, below any compression suffix, or "" if it is of no supported kind."""
    plain = path[: len(path) - len(compression_of(path))]
    suffix = plain[plain.rfind(".") :].lower() if "." in plain.rpartition("/")[2] else ""
    return suffix if suffix in _READERS else ""


def _is_read(path: str) -> bool:
    """Whether a file is of a supported kind. There is XML of all sorts; only wiki dumps are documents."""
    kind = _kind_of(path)
    if kind != ".xml":
        return bool(kind)
    from jaxllm.data.sources.wikipedia import is_wiki_dump

    begin = b""
    probe = Input(path, path, partial(open_location, path), Files(path), report=lambda _: None)
    try:
        for piece in probe.pieces():
            begin += piece.data
            if len(begin) >= 4096:
                break
    except (OSError, CompressionError):
        return True  # reading it will report what is wrong
    return is_wiki_dump(begin)


def reader_of(path: str) -> Callable[[Input], Iterator[Document]] | None:
    """What reads a file of this name; None for one of no supported kind."""
    kind = _kind_of(path)
    if not kind:
        return None
    file, _, function = _READERS[kind].partition(":")
    read = getattr(import_module(f"jaxllm.data.sources.{file}"), function)
    if kind != ".zip":
        return read
    return partial(read, reader_of=lambda name: None if _kind_of(name) == ".zip" else reader_of(name))


def _input(part: Part, settings: Files, report: Report) -> Input:
    path = part.location.path
    opener = partial(open_location, path)
    return Input(path, part.location.name, opener, settings, report, part.start, part.stop, part.first)


def _read(part: Part, settings: Files, report: Report) -> Iterator[Document]:
    found = False

    def heard(problem: Problem) -> None:
        nonlocal found
        found = True
        report(problem)

    source = _input(part, settings, heard)
    try:
        for document in reader_of(source.path)(source):
            found = True
            yield document
    except CompressionError as error:
        source.problem(str(error))
    except OSError as error:
        if error.errno in _FULL:  # this machine's trouble, not the file's: to go on would lose good documents
            raise
        source.problem(f"can't be read: {error.strerror or error}")
    if not found and not part.start and part.stop is None:
        source.problem("is empty; remove it, or give it some text")


# Cutting large files


def _cut(location: Location, settings: Files) -> list[Part]:
    """A file as parts of about `shard_bytes`; as one where it is small or can't be cut."""
    kind, compression = _kind_of(location.path), compression_of(location.path)
    whole = Part(location, num_bytes=location.num_bytes)
    if location.num_bytes <= 2 * settings.shard_bytes:
        return [whole]
    if kind == ".parquet" and not compression:
        return _cut_table(whole, settings)
    if kind in (".jsonl", ".ndjson") and not compression and not is_remote(location.path):
        return _cut_lines(whole, settings)
    if (kind, compression) in _BY_MEMBERS:
        with open_location(location.path) as stream:
            starts = member_starts(stream, compression, location.num_bytes, settings.shard_bytes)
        return _parts(location, [(start, 0) for start in starts], location.num_bytes)
    return [whole]


def _parts(location: Location, begins: list[tuple[int, int]], end: int, scale: float = 1.0) -> list[Part]:
    """Parts from where they begin, each with the lines or rows in front of it; `scale` turns units into bytes."""
    stops = [start for start, _ in begins[1:]]
    return [
        Part(location, start, stop, first, int(scale * ((end if stop is None else stop) - start)))
        for (start, first), stop in zip(begins, [*stops, None], strict=True)
    ]


def _cut_table(whole: Part, settings: Files) -> list[Part]:
    from jaxllm.data.sources.tables import parquet_row_groups

    groups = parquet_row_groups(_input(whole, settings, refuse))
    begins, rows, size = [(0, 0)], 0, 0
    for number, (group_rows, group_bytes) in enumerate(groups):
        if size >= settings.shard_bytes:
            begins.append((number, rows))
            size = 0
        rows, size = rows + group_rows, size + group_bytes
    return _parts(whole.location, begins, len(groups), whole.num_bytes / max(len(groups), 1))


def _cut_lines(whole: Part, settings: Files) -> list[Part]:
    """Reads the file once, as fast as the disk allows, to number the lines."""
    begins, lines, at = [(0, 0)], 0, 0
    with open_location(whole.location.path) as stream:
        while data := stream.read(1 << 20):
            while (wanted := begins[-1][0] + settings.shard_bytes) < at + len(data):
                end = data.find(b"\n", max(0, wanted - at)) + 1
                if not end:
                    break
                begins.append((at + end, lines + data.count(b"\n", 0, end)))
            lines += data.count(b"\n")
            at += len(data)
    if begins[-1][0] == at:
        begins.pop()
    return _parts(whole.location, begins, at)
