"""Cutting a text into pieces before it becomes tokens; no token reaches across a cut.

The classes have the names and fields that Hugging Face's files give them. Characters are classified by the Unicode
version of the `regex` package, white space is Unicode's White_Space.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import regex

from jaxllm.tokenizers.preparation.patterns import Pattern, Regex, String
from jaxllm.tokenizers.preparation.split_patterns import KNOWN_PATTERNS, SPLIT_PATTERNS, TOTAL_PATTERNS, Splitter
from jaxllm.tokenizers.stages import Cut, Rewrite, Span

Behavior = Literal["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
"""What becomes of a match: it is dropped, or is a piece, or goes with the piece before or behind it, or adjacent
matches are one piece."""


@dataclass(frozen=True)
class Split:
    """Cuts around the matches of a pattern. invert: what is between the matches counts as the match.

    Raises ValueError for an unknown behavior, and when the pattern takes too long on a text.
    """

    pattern: Pattern
    behavior: Behavior = "Isolated"
    invert: bool = False

    def __post_init__(self) -> None:
        _check_behavior(self.behavior)

    def __call__(self, text: str) -> list[str]:
        if self._splitter:
            return self._splitter(text)
        if self._keeps_matches and (pieces := self.pattern.cover(text)) is not None:
            return pieces
        return [text[begin:end] for begin, end in self.spans(text)]

    @cached_property
    def _splitter(self) -> Splitter | None:
        """What is quicker for a known pattern. It reads "$", and "+" behind a counted repeat, otherwise than files."""
        known = isinstance(self.pattern, Regex) and self.pattern.source in KNOWN_PATTERNS
        # Where a pattern matches all of a text, dropping what lies between its matches drops nothing.
        whole = self.behavior == "Removed" and self.invert and known and self.pattern.source in TOTAL_PATTERNS
        if not known or not (whole or self.behavior == "Isolated") or re.search(r"\$|\d\}\+", self.pattern.source):
            return None
        return Splitter((self.pattern.source,))

    @cached_property
    def _keeps_matches(self) -> bool:
        """Whether the pieces are the matches wherever these make up the whole text."""
        kept = self.behavior == "Isolated" or (self.behavior == "Removed" and self.invert)
        return kept and isinstance(self.pattern, Regex)

    def spans(self, text: str) -> list[Span]:
        if self._splitter:
            return self._splitter.spans(text)
        parts = _parts(self.pattern.find(text), len(text), self.invert)
        return [(begin, end) for begin, end in _join(parts, self.behavior) if begin < end]


def _check_behavior(behavior: str) -> None:
    if behavior not in get_args(Behavior):
        raise ValueError(f"the behavior of a split must be one of {', '.join(get_args(Behavior))}, got {behavior!r}")


Part = tuple[int, int, bool]
"""A range of characters, and whether it counts as a match."""


def _parts(matches: list[Span], length: int, invert: bool) -> list[Part]:
    """The matches and what lies between them, some of it perhaps empty."""
    parts, place = [], 0
    for begin, end in matches:
        if place < begin:
            parts.append((place, begin, invert))
        parts.append((begin, end, not invert))
        place = end
    if place < length:
        parts.append((place, length, invert))
    return parts


def _join(parts: list[Part], behavior: Behavior) -> list[Span]:
    match behavior:
        case "Isolated":
            return [(begin, end) for begin, end, _ in parts]
        case "Removed":
            return [(begin, end) for begin, end, matched in parts if not matched]
        case "MergedWithNext":
            # The same as with the previous one, seen from the end.
            mirrored = _join([(-end, -begin, matched) for begin, end, matched in parts[::-1]], "MergedWithPrevious")
            return [(-end, -begin) for begin, end in mirrored[::-1]]
    joined: list[Span] = []
    previous = False
    for begin, end, matched in parts:
        # Of several matches in a row, only the first goes with what is before it.
        extends = matched == previous if behavior == "Contiguous" else matched and not previous
        if extends and joined:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((begin, end))
        previous = matched
    return joined


class _Matches:
    """A cut whose pieces are the matches of a pattern, none of them empty, that works in one pass over the text."""

    _pattern: regex.Pattern[str]

    def __call__(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def spans(self, text: str) -> list[Span]:
        return [match.span() for match in self._pattern.finditer(text)]


# Punctuation is Unicode's and all of ASCII that is no letter, number, space or control character: "$" and "+" too.
_PUNCTUATION = r"\p{P}!-/:-@\[-`{-~"


@dataclass(frozen=True)
class Whitespace(_Matches):
    """Words and runs of other characters; white space is dropped."""

    _pattern = regex.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class WhitespaceSplit(_Matches):
    """What lies between white space."""

    _pattern = regex.compile(r"\S+")


@dataclass(frozen=True)
class BertPreTokenizer(_Matches):
    """What lies between white space, with each punctuation character a piece of its own."""

    _pattern = regex.compile(rf"[{_PUNCTUATION}]|[^\s{_PUNCTUATION}]+")


_EACH_NUMERAL = regex.compile(r"\p{N}|\P{N}+")
_NUMBERS = regex.compile(r"\p{N}+|\P{N}+")


@dataclass(frozen=True)
class Digits(_Matches):
    """Numbers apart from the rest: each character of them where individual_digits is set, otherwise whole runs."""

    individual_digits: bool = False

    @property
    def _pattern(self) -> regex.Pattern[str]:
        return _EACH_NUMERAL if self.individual_digits else _NUMBERS


@dataclass(frozen=True)
class Punctuation:
    """Cuts around each punctuation character. Raises ValueError for an unknown behavior."""

    behavior: Behavior = "Isolated"

    def __post_init__(self) -> None:
        _check_behavior(self.behavior)

    @cached_property
    def _split(self) -> Split:
        return Split(Regex(f"[{_PUNCTUATION}]"), self.behavior)

    def __call__(self, text: str) -> list[str]:
        return self._split(text)

    def spans(self, text: str) -> list[Span]:
        return self._split.spans(text)


@dataclass(frozen=True)
class CharDelimiterSplit:
    """What lies between the occurrences of one character. Raises ValueError unless it is one."""

    delimiter: str

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ValueError(f"the delimiter must be one character, got {self.delimiter!r}")

    def __call__(self, text: str) -> list[str]:
        return [piece for piece in text.split(self.delimiter) if piece]

    def spans(self, text: str) -> list[Span]:
        return Split(String(self.delimiter), "Removed").spans(text)


@dataclass(frozen=True)
class FixedLength:
    """So many characters at a time. Raises ValueError unless it is at least one."""

    length: int = 5

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"the length of a piece must be at least 1, got {self.length}")

    def __call__(self, text: str) -> list[str]:
        return [text[begin:end] for begin, end in self.spans(text)]

    def spans(self, text: str) -> list[Span]:
        return [(i, min(i + self.length, len(text))) for i in range(0, len(text), self.length)]


@dataclass(frozen=True)
class PrefixSpace:
    """Puts a space in front of a piece that doesn't begin with one, so that a first word is like the others."""

    def __call__(self, text: str) -> str:
        return text if not text or text.startswith(" ") else " " + text

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        rewritten = self(text)
        put = [(0, 0)] * (len(rewritten) - len(text))
        return rewritten, put + [(i, i + 1) for i in range(len(text))]


@dataclass(frozen=True)
class ByteLevel:
    """What files name ByteLevel stands for two steps, either of which may be left out, and not for the bytes, which
    are the vocabulary's business.

    trim_offsets is for whoever reports offsets: whether they leave out the space that a token begins with.
    """

    add_prefix_space: bool = True
    trim_offsets: bool = True
    use_regex: bool = True

    @cached_property
    def steps(self) -> tuple[Rewrite | Cut, ...]:
        """A space in front, and GPT-2's cut."""
        steps: list[Rewrite | Cut] = [PrefixSpace()] if self.add_prefix_space else []
        return (*steps, Split(Regex(SPLIT_PATTERNS["gpt2"]))) if self.use_regex else tuple(steps)
