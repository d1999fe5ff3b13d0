"""Zip archives: each entry of a supported kind is read as a file of that kind."""

from __future__ import annotations

import bisect
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from jaxllm.data.compression import MAX_EXPANSION, CompressionError
from jaxllm.data.documents import Document
from jaxllm.data.sources.reading import Input

_ENCRYPTED = 0x1
_SMALL = 1 << 20


def read_zip(source: Input, reader_of: Callable[[str], Callable | None]) -> Iterator[Document]:
    """The documents of the entries, in the order of their names. An archive inside an archive is passed over.

    reader_of: how an entry of this name is read, or None if it is of no supported kind.
    """
    try:
        stream = source.seekable()
    except CompressionError as error:
        source.problem(str(error))
        return
    with stream:
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            source.problem(f"is not a readable zip archive: {error}")
            return
        with archive:
            seen, begins = set(), sorted(entry.header_offset for entry in archive.infolist())
            for entry in sorted(archive.infolist(), key=lambda entry: (entry.filename, entry.header_offset)):
                if entry.is_dir() or any(part.startswith(".") for part in entry.filename.split("/")):
                    continue
                read = reader_of(entry.filename)
                if read is None:
                    continue
                if complaint := _refusal(entry, begins, seen):
                    source.problem(complaint, f"entry {entry.filename}")
                    continue
                seen.add(entry.filename)
                yield from _read_entry(source, archive, entry, read)


def _refusal(entry: zipfile.ZipInfo, begins: list[int], seen: set[str]) -> str:
    """Why an entry is not read, or ""; `begins` are those of all entries, in order."""
    if entry.filename in seen:
        return "there is another entry of this name in front of it"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.file_size > _SMALL and entry.file_size > MAX_EXPANSION * max(entry.compress_size, 1):
        return f"expands more than {MAX_EXPANSION} times, as text never does; it may be a decompression bomb"
    follower = bisect.bisect_right(begins, entry.header_offset)
    if follower < len(begins) and entry.header_offset + entry.compress_size > begins[follower]:
        return "overlaps the next entry, as only decompression bombs do"
    return ""


def _read_entry(source: Input, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, read: Callable) -> Iterator[Document]:
    inside = replace(
        source,
        path=f"{source.path}!{entry.filename}",
        name=f"{source.name}/{entry.filename}",
        open=lambda: archive.open(entry),
    )
    try:
        yield from read(inside)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        if getattr(error, "errno", None) is not None:  # the disk's; the module bz2 calls damage an OSError without one
            raise
        inside.problem(f"damaged zip entry: {error}")
