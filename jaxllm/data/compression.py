"""Compressed streams read as chunks of plain bytes: gzip, zstd and bzip2, with damage found, named and stepped over.

All three formats are members (zstd calls them frames, bzip2 streams) one after another. Behind a damaged member,
reading can go on at the next one, which begins with the format's magic bytes.
"""

from __future__ import annotations

import bz2
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

SUFFIXES = (".gz", ".zst", ".bz2")

# How many compressed bytes are read at a time.
_READ = 1 << 18

# What a decompressor may give at once: a bomb must not fill memory in one call.
_STEP = 1 << 20

# A damaged member is noticed late: gzip compares its checksum at its end. What a member says is held back until it has
# ended or said this much, so that a short one that is damaged says nothing.
_HELD_BACK = 1 << 20

# Text compresses three to twenty times. Deflate reaches 1032 times on zeros, zstd and bzip2 tens of thousands.
MAX_EXPANSION = 500
_EXPANSION_ALLOWED = 64 << 20

# How far apart members may lie for a place between them to be looked for.
_LONGEST_SEARCH = 32 << 20

# gzip: deflate is the only method, and three of the flags are never set. bzip2: the level, then the digits of pi.
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd"),
    ".bz2": re.compile(rb"BZh[1-9]1AY&SY"),
}
_NAME = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2"}


class CompressionError(ValueError):
    """Compressed data is damaged, cut short, or needs a package that is not installed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some decompressed bytes of a member, which begins at `member` of the compressed stream."""

    member: int
    data: bytes
    gap: bool = False
    """true where bytes are missing in front of this piece, which then has none itself"""


# Takes the offset in the compressed stream and what is wrong there. If it returns, reading goes on behind the damage.
Damaged = Callable[[int, str], None]


def stop_reading(offset: int, message: str) -> None:
    """Takes damage the strict way."""
    raise CompressionError(message)


def compression_of(name: str) -> str:
    """The compression suffix of a file name, in lower case, or "" for a plain file."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def decompressed(
    stream: BinaryIO, compression: str, damaged: Damaged = stop_reading, *, start: int = 0, stop: int | None = None
) -> Iterator[Piece]:
    """Gives the plain bytes of a stream, from the member at `start` to the last one that begins before `stop`.

    compression: a suffix of SUFFIXES, or "" for bytes as they are, where start and stop are byte offsets.
    Raises CompressionError for .zst without the package zstandard, and what `damaged` and the stream raise.
    """
    if start:
        stream.seek(start)
    if not compression:
        yield from _plain(stream, start, stop)
        return
    reader = _Reader(stream, compression, start)
    searching = False  # whether the member at hand was found behind a damaged one, and may be none
    while (stop is None or reader.member < stop) and reader.begin():
        held, size = [], 0
        try:
            for data in reader.data():
                held.append(data)
                size += len(data)
                if size >= _HELD_BACK:
                    yield Piece(reader.member, b"".join(held))
                    held, searching = [], False
            yield Piece(reader.member, b"".join(held))
            searching = False
            reader.end()
        except _Bomb as error:
            damaged(reader.member, str(error))
            yield Piece(reader.member, b"", gap=True)
            return
        except reader.errors as error:
            if not searching:
                damaged(reader.member, f"damaged {_NAME[compression]} data: {error}")
                if isinstance(error, EOFError):  # what came before the cut is as it was written
                    yield Piece(reader.member, b"".join(held))
            yield Piece(reader.member, b"", gap=True)
            searching = True
            if not reader.find_next():
                return


def member_starts(stream: BinaryIO, compression: str, size: int, spacing: int) -> list[int]:
    """Where members begin, about `spacing` compressed bytes apart; [0] if there are none to be found.

    Reads little more than a member at each place. Raises CompressionError for a missing package.
    """
    starts, wanted = [0], spacing
    while wanted < size:
        stream.seek(wanted)
        reader = _Reader(stream, compression, wanted)
        found = reader.find(b"", wanted)
        while found and not reader.is_sound():
            found = reader.member < wanted + _LONGEST_SEARCH and reader.find_next()
        if not found:
            break
        starts.append(reader.member)
        wanted = reader.member + spacing
    return starts


class _Bomb(Exception):
    """So much came out of so little that it can't be text."""


class _Bzip2Damage(Exception):
    """What the module bz2 says by an OSError, which is what the stream's own errors are."""


class _Reader:
    """Reads a stream member by member; `member` is where the one at hand begins."""

    def __init__(self, stream: BinaryIO, compression: str, start: int):
        self._stream, self._compression = stream, compression
        self._decompressor, self.errors = _decompressor_of(compression)
        self.member = start
        self._ahead = b""  # what was read of the stream and belongs to the next member
        self._seen = bytearray()  # what was read of the member at hand, as far as a search may need it
        self._size = 0  # how much was read of the member at hand
        self._taken, self._given = 0, 0

    def begin(self) -> bool:
        """Whether there is another member; zeros at the end of a stream are padding."""
        while not self._ahead or not self._ahead.strip(b"\0"):
            self.member += len(self._ahead)
            self._ahead = self._stream.read(_READ)
            if not self._ahead:
                return False
        self._seen, self._size = bytearray(), 0
        return True

    def data(self) -> Iterator[bytes]:
        """The plain bytes of the member at hand. Raises EOFError, _Bomb, and one of `errors`."""
        unpack, data = self._decompressor(), self._ahead
        while data:
            if len(self._seen) <= _LONGEST_SEARCH:
                self._seen += data
            self._size += len(data)
            self._taken += len(data)
            for piece in unpack.pieces(data):
                self._given += len(piece)
                self._check_expansion()
                yield piece
            if unpack.ended:
                self._ahead = unpack.rest
                self._size -= len(unpack.rest)
                self._taken -= len(unpack.rest)
                return
            data = self._stream.read(_READ)
        self._ahead = b""
        raise EOFError(f"the file ends inside a {_NAME[self._compression]} member")

    def end(self) -> None:
        """Makes the next member, right behind this one, the one at hand."""
        self.member += self._size

    def _check_expansion(self) -> None:
        if self._given > _EXPANSION_ALLOWED and self._given > MAX_EXPANSION * self._taken:
            raise _Bomb(
                f"expands more than {MAX_EXPANSION} times, as text never does; nothing more is read of it, "
                "since it may be a decompression bomb"
            )

    def find_next(self) -> bool:
        """Makes the next place with magic bytes behind the begin of this member the one at hand."""
        if len(self._seen) == self._size:
            return self.find(bytes(self._seen[1:]), self.member + 1)
        return self.find(b"", self.member + self._size)

    def find(self, data: bytes, at: int) -> bool:
        """The same from `at` on, where `data` was read and the stream follows it."""
        while True:
            found = _MAGIC[self._compression].search(data)
            if found:
                self._ahead, self.member = data[found.start() :], at + found.start()
                return True
            tail = data[-10:]  # the magic bytes may lie across two reads
            more = self._stream.read(_READ)
            if not more:
                self._ahead = b""
                return False
            at += len(data) - len(tail)
            data = tail + more

    def is_sound(self) -> bool:
        """Whether the member at hand can be decompressed for a while."""
        size = 0
        try:
            self.begin()
            for data in self.data():
                size += len(data)
                if size >= _HELD_BACK:
                    break
        except self.errors:
            return False
        return True


def _plain(stream: BinaryIO, start: int, stop: int | None) -> Iterator[Piece]:
    left = float("inf") if stop is None else stop - start
    while left > 0 and (data := stream.read(int(min(left, _READ)))):
        left -= len(data)
        yield Piece(0, data)


# One decompressor per format, each for one member: `pieces` gives plain bytes, then `ended` and `rest` say how it went.


class _Gzip:
    def __init__(self):
        self._inner = zlib.decompressobj(wbits=31)
        self.ended, self.rest = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data and not self.ended:
            yield self._inner.decompress(data, _STEP)
            data = self._inner.unconsumed_tail
            self.ended, self.rest = self._inner.eof, self._inner.unused_data


class _Bzip2:
    def __init__(self):
        self._inner = bz2.BZ2Decompressor()
        self.ended, self.rest = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while not self.ended and (data or not self._inner.needs_input):
            try:
                yield self._inner.decompress(data, _STEP)
            except OSError as error:
                raise _Bzip2Damage(error) from error
            data, self.ended = b"", self._inner.eof
        self.rest = self._inner.unused_data if self.ended else b""


class _Zstd:
    # A block of 4 bytes can stand for 128 KiB, so a step is fed little.
    _BITE = 1024

    def __init__(self):
        import zstandard

        # Files written with `zstd --long=31` ask for a window of 2 GiB, the format's usual upper end.
        self._inner = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
        self.ended, self.rest = False, b""

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), self._BITE):
            yield self._inner.decompress(data[at : at + self._BITE])
            if self._inner.eof:
                self.ended, self.rest = True, self._inner.unused_data + data[at + self._BITE :]
                return


def _decompressor_of(compression: str) -> tuple[Callable, tuple[type[Exception], ...]]:
    """What makes a decompressor of one member, and the errors by which it says that a member is damaged."""
    match compression:
        case ".gz":
            return _Gzip, (zlib.error, EOFError)
        case ".bz2":
            return _Bzip2, (_Bzip2Damage, EOFError)
        case ".zst":
            try:
                import zstandard
            except ModuleNotFoundError as error:
                raise CompressionError(
                    ".zst needs the package zstandard, which is not installed: pip install zstandard"
                ) from error
            return _Zstd, (zstandard.ZstdError, EOFError)
    raise CompressionError(f"no such compression: {compression!r}")
