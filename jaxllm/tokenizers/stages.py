"""The parts that a tokenizer is composed of: rewriting text, cutting it, and finding the ids of a piece.

A text is rewritten (normalized), cut into pieces (pre-tokenized), and each piece gets ids from a vocabulary. Each part
does its work in two ways that must agree: quickly, and with the place in its input that each thing came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

Span = tuple[int, int]
"""Begin and end of a range of characters."""


@runtime_checkable
class Rewrite(Protocol):
    """A step that changes characters, such as lowercasing."""

    def __call__(self, text: str) -> str: ...

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        """The rewritten text, and for each of its characters the span of the text that it came from.

        Spans don't go backwards; one of length zero belongs to a character that was put in.
        """


@runtime_checkable
class Cut(Protocol):
    """A step that cuts a text into pieces, such as words; what belongs to no piece is dropped."""

    def __call__(self, text: str) -> list[str]:
        """The pieces in their order, none of them empty."""

    def spans(self, text: str) -> list[Span]:
        """Where each piece lies."""


@dataclass(frozen=True)
class Preparation:
    """What happens to a text before a vocabulary sees its pieces."""

    normalizer: tuple[Rewrite, ...] = ()
    steps: tuple[Rewrite | Cut, ...] = ()

    def __call__(self, text: str) -> list[str]:
        for rewrite in self.normalizer:
            text = rewrite(text)
        pieces = [text]
        for step in self.steps:
            pieces = list(chain.from_iterable(map(step, pieces))) if isinstance(step, Cut) else list(map(step, pieces))
        return pieces


class Vocabulary(Protocol):
    """The tokens and how a piece is made of them. Ids need not be contiguous: special tokens may lie between them."""

    def tokens(self) -> Iterator[tuple[int, str]]:
        """Each id with its token as files write it: "Ġthe" in byte-level BPE, "##ing", "▁the"."""

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        """The ids of a piece. Raises ValueError for what the vocabulary can't express and has no unknown token for."""

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        """The same ids, each with the characters of the piece that it covers.

        A token of some bytes of a character covers the whole character.
        """
