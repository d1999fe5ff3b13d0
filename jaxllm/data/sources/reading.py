"""What a reader of one format is given, and how it reads bytes, text and lines of it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from jaxllm.data.compression import Piece, compression_of, decompressed
from jaxllm.data.sources.charset import decode
from jaxllm.data.sources.shards import Problem, Report

if TYPE_CHECKING:
    from jaxllm.data.sources.files import Files


@dataclass(frozen=True)
class Input:
    """One file, or a part of it that can be read alone, or an entry of an archive."""

    path: str
    """where it lies, for messages"""
    name: str
    """what its documents' names begin with"""
    open: Callable[[], BinaryIO]
    settings: Files
    report: Report
    start: int = 0
    stop: int | None = None
    first: int = 0
    """how many lines or rows of the file lie in front of `start`"""

    @property
    def compression(self) -> str:
        return compression_of(self.path)

    def problem(self, message: str, where: str = "") -> None:
        self.report(Problem(self.path, where, message))

    def pieces(self) -> Iterator[Piece]:
        """The plain bytes, with damage reported and stepped over."""

        def damaged(offset: int, message: str) -> None:
            self.problem(message, f"offset {offset}" if offset else "")

        with self.open() as stream:
            yield from decompressed(stream, self.compression, damaged, start=self.start, stop=self.stop)

    def whole(self) -> bytes | None:
        """All bytes, or None where the file is damaged or larger than a document may be, which is reported."""
        limit, held, size = self.settings.max_document_bytes, [], 0
        for piece in self.pieces():
            held.append(piece.data)
            size += len(piece.data)
            if piece.gap:
                return None
            if size > limit:
                self.problem(too_long(limit))
                return None
        return b"".join(held)

    def seekable(self) -> BinaryIO:
        """The plain bytes as a file that can be sought in: unpacked into an unnamed temporary file where need be."""
        if not self.compression:
            return self.open()
        import tempfile

        unpacked = tempfile.TemporaryFile()  # noqa: SIM115, since the caller closes it
        for piece in self.pieces():
            unpacked.write(piece.data)
        unpacked.seek(0)
        return unpacked

    def text(self, raw: bytes, offset: int = 0, where: str = "") -> str | None:
        """Bytes to text by the settings' encoding, or None, reported, where they are none.

        offset: where the bytes begin in the plain file; a byte order mark at its begin is no text.
        """
        if self.settings.encoding == "detect":
            return decode(raw)[0]
        marked = offset == 0 and raw.startswith(codecs.BOM_UTF8)
        try:
            return raw.decode("utf-8-sig" if marked else "utf-8")
        except UnicodeDecodeError as error:
            at = offset + error.start + (len(codecs.BOM_UTF8) if marked else 0)
            byte = f"byte 0x{error.object[error.start]:02x} at offset {at}{where and f' ({where})'}"
            self.problem(
                f'is not UTF-8 text: {byte} can\'t be decoded; convert the file to UTF-8, or read it with "detect"'
            )
            return None


def too_long(limit: int) -> str:
    return f"is longer than a document may be ({limit:,} bytes); split it, or raise max_document_bytes"


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    """counted from 1 in the whole file, as far as it could be read"""
    offset: int
    raw: bytes
    cut: bool
    """whether it touches damage, which was reported, so that it may be a part of a line"""


def lines(source: Input) -> Iterator[Line]:
    """The lines of a file, without their ends; one that is too long to be a document is reported and left out.

    At most one line and one piece are in memory at a time.
    """
    limit = source.settings.max_document_bytes
    number, offset = source.first + 1, source.start
    held: list[bytes] = []  # the begin of a line whose end has not come
    size, after_gap = 0, False

    def finished(raw: bytes, cut: bool = False) -> Iterator[Line]:
        if size + len(raw) > limit:
            source.problem(f"the line {too_long(limit)}", f"line {number}")
        else:
            yield Line(number, offset, b"".join([*held, raw]) if held else raw, cut or after_gap)

    for piece in source.pieces():
        if piece.gap:
            if size:
                yield from finished(b"", cut=True)
                offset += size
                held, size = [], 0
            after_gap = True
            continue
        *ended, rest = piece.data.split(b"\n")
        for raw in ended:
            yield from finished(raw)
            number, offset = number + 1, offset + size + len(raw) + 1
            held, size, after_gap = [], 0, False
        size += len(rest)
        if size > limit:
            held = []  # too long: only its length is still of interest
        elif rest:
            held.append(rest)
    if size:
        yield from finished(b"")
