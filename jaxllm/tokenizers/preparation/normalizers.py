"""Rewriting a text before it is cut: Unicode normalization, lowercase, accents, replacements.

The classes have the names and fields that Hugging Face's files give them. A step may lose information, so none is
applied unless a tokenizer names it. Characters are classified by the Unicode version of the `regex` package, and
normalized and lowercased by that of Python; later versions only add characters.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Literal

import regex

from jaxllm.tokenizers.preparation.patterns import Pattern
from jaxllm.tokenizers.stages import Rewrite, Span

# Unicode's White_Space, which unlike str.isspace() leaves out the separators U+001C to U+001F.
WHITE_SPACE = "".join(map(chr, (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))))
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"


def rewrite_aligned(rewrites: Sequence[Rewrite], text: str) -> tuple[str, list[Span]]:
    """Several rewrites in their order, and where each character of the result came from in the text."""
    spans = [(i, i + 1) for i in range(len(text))]
    for rewrite in rewrites:
        text, steps = rewrite.aligned(text)
        spans = _compose(spans, steps)
    return text, spans


def _compose(first: list[Span], second: list[Span]) -> list[Span]:
    end = first[-1][1] if first else 0

    def through(begin: int, stop: int) -> Span:
        if begin < stop:
            return first[begin][0], first[stop - 1][1]
        place = first[begin][0] if begin < len(first) else end
        return place, place

    return [through(begin, stop) for begin, stop in second]


def _rewrite_each(rewrite: Callable[[str], str], text: str) -> tuple[str, list[Span]]:
    """Aligns a rewrite that looks at one character at a time."""
    table = {character: rewrite(character) for character in set(text)}
    parts = [table[character] for character in text]
    return "".join(parts), [(i, i + 1) for i, part in enumerate(parts) for _ in part]


class _EachCharacter(ABC):
    """A rewrite that looks at one character at a time."""

    @abstractmethod
    def __call__(self, text: str) -> str: ...

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        return _rewrite_each(self, text)


class _Normalization:
    form: ClassVar[Literal["NFC", "NFD", "NFKC", "NFKD"]]

    def __call__(self, text: str) -> str:
        return unicodedata.normalize(self.form, text)

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        return _normalize_aligned(self.form, text)


@dataclass(frozen=True)
class NFC(_Normalization):
    """Composed characters: "e" and a combining accent become one character. Equal text gets equal code points."""

    form = "NFC"


@dataclass(frozen=True)
class NFD(_Normalization):
    """Decomposed characters: accents become characters of their own."""

    form = "NFD"


@dataclass(frozen=True)
class NFKC(_Normalization):
    """NFC that also makes variants equal: ligatures, full-width letters, superscripts. This loses them."""

    form = "NFKC"


@dataclass(frozen=True)
class NFKD(_Normalization):
    """NFD that also makes variants equal."""

    form = "NFKD"


# ASCII that is followed by ASCII never changes; the character before others may be composed with them.
_INERT = regex.compile(r"(?P<inert>[\x00-\x7f]+(?=[\x00-\x7f]|\Z))|[\x00-\x7f]?[^\x00-\x7f]+")


def _normalize_aligned(form: str, text: str) -> tuple[str, list[Span]]:
    """Unicode normalization (UAX 15) with the characters that each result came from.

    Where marks change places, the span of each is widened so far that spans don't go backwards.
    """
    parts, spans = [], []
    for match in _INERT.finditer(text):
        begin, end = match.span()
        if match["inert"]:
            parts.append(match.group())
            spans += zip(range(begin, end), range(begin + 1, end + 1), strict=True)
        else:
            part, steps = _normalize_run(form, match.group())
            parts.append(part)
            spans += [(begin + left, begin + right) for left, right in steps]
    return "".join(parts), spans


def _normalize_run(form: str, text: str) -> tuple[str, list[Span]]:
    # Decompose each character, then put the marks behind a letter in the order of their combining classes.
    decomposition = "NFKD" if "K" in form else "NFD"
    runs: list[list[tuple[str, int, int]]] = []
    for i, source in enumerate(text):
        for character in unicodedata.normalize(decomposition, source):
            if not runs or not unicodedata.combining(character):
                runs.append([])
            runs[-1].append((character, i, i + 1))
    marked = [part for run in runs for part in sorted(run, key=lambda part: unicodedata.combining(part[0]))]
    parts = _compose_characters(marked) if "D" not in form else marked
    begins = [*accumulate((begin for _, begin, _ in reversed(parts)), min)][::-1]
    ends = accumulate((end for _, _, end in parts), max)
    return "".join(part[0] for part in parts), list(zip(begins, ends, strict=True))


def _compose_characters(parts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Canonical composition: each character joins the last starter, where they have a composition and none is between
    them that keeps them apart, which one of the same or a higher combining class does."""
    composed: list[tuple[str, int, int]] = []
    starter: int | None = None
    last_class = 0  # of the last character that was kept behind the starter
    for character, begin, end in parts:
        combining = unicodedata.combining(character)
        adjacent = starter == len(composed) - 1
        if starter is not None and (adjacent or last_class < combining):
            base, base_begin, base_end = composed[starter]
            joined = unicodedata.normalize("NFC", base + character)
            if len(joined) == 1:
                composed[starter] = joined, min(base_begin, begin), max(base_end, end)
                continue
        if combining == 0:
            starter = len(composed)
        last_class = combining
        composed.append((character, begin, end))
    return composed


@dataclass(frozen=True)
class Lowercase(_EachCharacter):
    """Small letters. Each by itself: a capital sigma becomes "σ" at the end of a word too, not "ς"."""

    def __call__(self, text: str) -> str:
        return text.replace("Σ", "σ").lower()


_MARKS = regex.compile(r"\p{M}+")
_NONSPACING_MARKS = regex.compile(r"\p{Mn}+")


@dataclass(frozen=True)
class StripAccents(_EachCharacter):
    """Drops combining marks. Accents are such only after NFD or NFKD."""

    def __call__(self, text: str) -> str:
        return text if text.isascii() else _MARKS.sub("", text)


@dataclass(frozen=True)
class _StripNonspacing(_EachCharacter):
    def __call__(self, text: str) -> str:
        return text if text.isascii() else _NONSPACING_MARKS.sub("", text)


_UNCLEAN = regex.compile(r"[[\p{Cc}\p{Cf}\p{Co}\uFFFD]--[\t\n\r]]+", regex.V1)
_TO_SPACE = dict.fromkeys(map(ord, WHITE_SPACE), " ")


@dataclass(frozen=True)
class _Clean(_EachCharacter):
    """Drops control characters, and makes each white space a space."""

    def __call__(self, text: str) -> str:
        return _UNCLEAN.sub("", text).translate(_TO_SPACE)


# The ranges of Han characters that BERT's tokenizer names; its gap before U+2B920 is part of the vocabularies made so.
_HAN = regex.compile(
    r"[\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\U00020000-\U0002A6DF\U0002A700-\U0002B81F\U0002B920-\U0002CEAF"
    r"\U0002F800-\U0002FA1F]"
)


@dataclass(frozen=True)
class _SpaceHan:
    """Puts a space before and behind each Han character."""

    def __call__(self, text: str) -> str:
        return text if text.isascii() else _HAN.sub(r" \g<0> ", text)

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        spans: list[Span] = []
        for i, character in enumerate(text):
            one = (i, i + 1)
            spans += [(i, i), one, (i + 1, i + 1)] if _HAN.match(character) else [one]
        return self(text), spans


@dataclass(frozen=True)
class BertNormalizer:
    """What BERT does to a text: clean it, set Han characters apart, strip accents, lowercase (Devlin et al. 2018).

    strip_accents: None means that it is done where lowercase is.
    """

    clean_text: bool = True
    handle_chinese_chars: bool = True
    strip_accents: bool | None = None
    lowercase: bool = True

    @cached_property
    def steps(self) -> tuple[Rewrite, ...]:
        """The rewrites that this one consists of."""
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        steps: list[Rewrite] = [_Clean()] if self.clean_text else []
        steps += [_SpaceHan()] if self.handle_chinese_chars else []
        steps += [NFD(), _StripNonspacing()] if strip else []
        steps += [Lowercase()] if self.lowercase else []
        return tuple(steps)

    def __call__(self, text: str) -> str:
        for step in self.steps:
            text = step(text)
        return text

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        return rewrite_aligned(self.steps, text)


@dataclass(frozen=True)
class Replace:
    """Puts a fixed text in the place of each match."""

    pattern: Pattern
    content: str

    def __call__(self, text: str) -> str:
        return self.pattern.replace(text, self.content)

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        spans, end = [], 0
        for start, stop in self.pattern.find(text):
            spans += [(i, i + 1) for i in range(end, start)] + [(start, stop)] * len(self.content)
            end = stop
        return self(text), spans + [(i, i + 1) for i in range(end, len(text))]


@dataclass(frozen=True)
class Prepend:
    """Puts a text in front, unless there is nothing to put it in front of."""

    prepend: str

    def __call__(self, text: str) -> str:
        return self.prepend + text if text else ""

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        put = [(0, 0)] * len(self.prepend) if text else []
        return self(text), put + [(i, i + 1) for i in range(len(text))]


@dataclass(frozen=True)
class Strip:
    """Takes white space off the ends."""

    strip_left: bool = True
    strip_right: bool = True

    def __call__(self, text: str) -> str:
        text = text.lstrip(WHITE_SPACE) if self.strip_left else text
        return text.rstrip(WHITE_SPACE) if self.strip_right else text

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        begin = len(text) - len(text.lstrip(WHITE_SPACE)) if self.strip_left else 0
        stripped = self(text)
        return stripped, [(i, i + 1) for i in range(begin, begin + len(stripped))]


_NMT = dict.fromkeys([*range(0x01, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F])
_NMT |= dict.fromkeys(
    [0x09, 0x0A, 0x0C, 0x0D, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD], " "
)


@dataclass(frozen=True)
class Nmt(_EachCharacter):
    """SentencePiece's cleaning for translation: control characters are dropped, odd white space becomes a space."""

    def __call__(self, text: str) -> str:
        return text.translate(_NMT)
