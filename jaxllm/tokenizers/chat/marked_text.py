"""Strings that remember, character by character, where they came from.

A chat template mixes its own text with that of the conversation, and afterwards one must know which is which: a control
token counts only where the template wrote it, and only what the assistant said is learned from. So each character
carries a mark, and every operation that a template may do on strings keeps the marks right. Where an operation can't
say which character came from which, all of them get every mark that went in: text is then rather taken for the
conversation's than for the template's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

DATA = 1
"""the conversation's, not the template's own"""
GENERATED = 2
"""inside a generation block: what the assistant says"""
LAST = 4
"""from the content of the last message"""


class MarkedText(str):
    """A string with one byte of marks for each character; a plain string is one whose marks are all 0."""

    __slots__ = ("marks",)
    marks: bytes

    def __new__(cls, text: str, marks: bytes):
        marked = super().__new__(cls, text)
        if len(marks) != len(marked):
            raise ValueError(f"{len(marked)} characters need as many marks, got {len(marks)}")
        marked.marks = marks
        return marked

    def __reduce__(self):
        return MarkedText, (str.__str__(self), self.marks)

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return join("", (self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return join("", (other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, index: int | slice) -> str:
        marks = self.marks[index] if isinstance(index, slice) else bytes([self.marks[index]])
        return MarkedText(super().__getitem__(index), marks)

    def __iter__(self):
        return (
            MarkedText(character, bytes([mark])) for character, mark in zip(super().__iter__(), self.marks, strict=True)
        )

    def lstrip(self, characters: str | None = None) -> str:
        return self[len(self) - len(super().lstrip(characters)) :]

    def rstrip(self, characters: str | None = None) -> str:
        return self[: len(super().rstrip(characters))]

    def strip(self, characters: str | None = None) -> str:
        return self.rstrip(characters).lstrip(characters)

    def removeprefix(self, prefix: str) -> str:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> str:
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        return self._apart(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        return self._apart(super().rsplit(sep, maxsplit), sep)

    def partition(self, sep: str) -> tuple[str, str, str]:
        before, middle, _ = super().partition(sep)
        return self[: len(before)], self[len(before) : len(before + middle)], self[len(before + middle) :]

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        before, middle, _ = super().rpartition(sep)
        return self[: len(before)], self[len(before) : len(before + middle)], self[len(before + middle) :]

    def splitlines(self, keepends: bool = False) -> list[str]:
        begin, lines = 0, []
        for whole, line in zip(super().splitlines(True), super().splitlines(keepends), strict=True):
            lines.append(self[begin : begin + len(line)])
            begin += len(whole)
        return lines

    def replace(self, old: str, new: str, count: int = -1) -> str:
        if not old:
            return spread(super().replace(old, new, count), mark_of((self, new)))
        return join(new, self.split(old, count))

    def join(self, parts: Iterable[str]) -> str:
        return join(self, parts)

    def lower(self) -> str:
        return self._same_places(super().lower())

    def upper(self) -> str:
        return self._same_places(super().upper())

    def capitalize(self) -> str:
        return self._same_places(super().capitalize())

    def title(self) -> str:
        return self._same_places(super().title())

    def swapcase(self) -> str:
        return self._same_places(super().swapcase())

    def casefold(self) -> str:
        return self._same_places(super().casefold())

    def _same_places(self, text: str) -> str:
        # A character may become several, never the other way round: of the same length means place for place.
        return MarkedText(text, self.marks) if len(text) == len(self) else spread(text, mark_of(self))

    def _apart(self, parts: list[str], sep: str | None) -> list[str]:
        if sep is None:
            return [spread(part, mark_of(self)) for part in parts]
        begin, found = 0, []
        for part in parts:
            found.append(self[begin : begin + len(part)])
            begin += len(part) + len(sep)
        return found


def marks_of(text: str) -> bytes:
    """The marks of each character."""
    return text.marks if isinstance(text, MarkedText) else bytes(len(text))


def join(separator: str, parts: Iterable[str]) -> str:
    """What separator.join(parts) is, with the marks of all."""
    parts = list(parts)
    text = str.join(separator, parts)
    if not isinstance(separator, MarkedText) and not any(isinstance(part, MarkedText) for part in parts):
        return text
    return MarkedText(text, marks_of(separator).join(map(marks_of, parts)))


def mark_of(value: Any) -> int:
    """All the marks that occur in a string, or in the strings of a list, tuple or dict."""
    found, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        match value:
            case MarkedText():
                for mark in set(value.marks):
                    found |= mark
            case list() | tuple():
                waiting += value
            case dict():
                waiting += value
                waiting += value.values()
    return found


@cache
def _adding(mark: int) -> bytes:
    """A table for bytes.translate."""
    return bytes(old | mark for old in range(256))


def spread(value: Any, mark: int) -> Any:
    """A string, or the same list, tuple or dict of strings, in which each character has these marks too."""
    match value:
        case _ if not mark:
            return value
        case str():
            return MarkedText(value, marks_of(value).translate(_adding(mark)))
        case list():
            return [spread(item, mark) for item in value]
        case tuple():
            return tuple(spread(item, mark) for item in value)
        case dict():
            return {spread(key, mark): spread(item, mark) for key, item in value.items()}
    return value
