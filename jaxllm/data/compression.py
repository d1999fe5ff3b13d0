"""Compressed files read as plain streams of bytes: .gz and .zst.

Both readers refuse a file that stops in the middle of a compressed stream; neither hands out what a damaged file
still yields as if it were whole.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SUFFIXES = (".gz", ".zst")

# A zstd block of 4 bytes can stand for 128 KiB, so the compressed side is fed in small bites to bound what one bite
# expands to.
_ZSTD_BITE = 4096


class CompressionError(ValueError):
    """A compressed file is damaged, cut short, or needs a package that is not installed."""


class _ZstdStream(io.RawIOBase):
    """Decompresses zstd frames one after another; a frame without its end raises EOFError.

    Written here because `zstandard.ZstdDecompressor.stream_reader` ends quietly when the file stops inside a frame.
    """

    def __init__(self, file: BinaryIO, decompressor):
        self._file = file
        self._decompressor = decompressor
        self._frame = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            bite = self._file.read(_ZSTD_BITE)
            if not bite:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._ready = memoryview(self._decompress(bite))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, bite: bytes) -> bytes:
        pieces = []
        while bite:
            frame = self._frame or self._decompressor.decompressobj()
            pieces.append(frame.decompress(bite))
            bite = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        return b"".join(pieces)


def compression_of(path: Path) -> str:
    """The compression suffix of a file name, ".gz" or ".zst", or "" for a plain file."""
    suffix = path.suffix.lower()
    return suffix if suffix in SUFFIXES else ""


@contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading bytes, decompressed by its suffix; positions count decompressed bytes.

    Raises CompressionError, which does not name the file, for a damaged or truncated stream (also later, while the
    caller reads inside the `with` block) and for .zst without the package zstandard; OSError if the file can't be
    opened.
    """
    match compression_of(path):
        case ".gz":
            try:
                with gzip.open(path, "rb") as stream:
                    yield stream
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise CompressionError(f"damaged gzip data: {error}") from error
        case ".zst":
            try:
                import zstandard
            except ModuleNotFoundError as error:
                raise CompressionError(
                    ".zst needs the package zstandard, which is not installed: pip install zstandard"
                ) from error
            # Files written with `zstd --long=31` ask for a window of 2 GiB, the format's usual upper end.
            decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
            try:
                with open(path, "rb") as file:
                    yield io.BufferedReader(_ZstdStream(file, decompressor), buffer_size=1 << 16)
            except (zstandard.ZstdError, EOFError) as error:
                raise CompressionError(f"damaged zstd data: {error}") from error
        case _:
            with open(path, "rb") as file:
                yield file
