"""The settings at the head of a GGUF file, where vocabularies are; the tensors behind them are left alone.

A file may be damaged or hostile, so no count in it is believed that the rest of the file could not hold.
"""

from __future__ import annotations

import mmap
import struct
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

MAGIC = b"GGUF"

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path: str | PathLike[str]) -> dict[str, Any]:
    """The settings: numbers, booleans, strings, and lists of one kind of them.

    Raises ValueError for a file that is no GGUF file of version 2 or 3, that is damaged, or ends too early.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it doesn't begin with {MAGIC!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return read_settings(Cursor(data))[0]
            except ValueError as error:
                raise ValueError(f"{path} is damaged, or no GGUF file that is supported: {error}") from error


class Bytes(Protocol):
    """A file, or several that are one: a slice of it is bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> bytes: ...


class Cursor:
    """Reads one thing after the other, and never more than is there. It begins behind the magic bytes."""

    def __init__(self, data: Bytes):
        self._data, self.place = data, len(MAGIC)
        # Files of big-endian machines have the version's bytes the other way round.
        self.order = "<"
        self.order = "<" if self.number("H") else ">"
        self.place = len(MAGIC)

    @property
    def left(self) -> int:
        return len(self._data) - self.place

    def _take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError(f"at byte {self.place} it promises {size:,} bytes, but ends after {self.left:,}")
        self.place += size
        return self._data[self.place - size : self.place]

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        size = struct.calcsize(self.order + code)
        taken = self._take(count * size)
        return struct.unpack(f"{self.order}{count}{code}", taken)

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def string(self) -> str:
        return self._take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _CODES:
                return list(self.numbers(_CODES[inner], count))
            if inner == _STRING:
                if count * 8 > self.left:
                    raise ValueError(f"at byte {self.place} it promises {count:,} strings, too many for its size")
                return [self.string() for _ in range(count)]
            raise ValueError(f"a list of values of kind {inner} is not supported")
        if kind not in _CODES:
            raise ValueError(f"there is no kind of value {kind}")
        return self.number(_CODES[kind])


def read_settings(cursor: Cursor) -> tuple[dict[str, Any], int]:
    """The settings, and how many tensors are described behind them. Raises ValueError for what is damaged."""
    version = cursor.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version} is not supported; convert it to version 3")
    tensors, count = cursor.numbers("Q", 2)
    settings: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        if name in settings:
            raise ValueError(f"the setting {name!r} occurs twice")
        settings[name] = cursor.value(cursor.number("I"))
    return settings, tensors
