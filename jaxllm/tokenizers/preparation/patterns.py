"""What a step of a tokenizer looks for in a text: a string, or a regular expression out of a file.

Files carry regular expressions in Oniguruma's Ruby syntax, which is read here into that of Python's `regex`. Where the
two differ it is translated, and what can't be is refused. A file may be hostile: the size of an expression is limited,
and so is the time for which it may run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import regex

from jaxllm.tokenizers.preparation.split_patterns import KNOWN_PATTERNS
from jaxllm.tokenizers.stages import Span

SECONDS = 5.0
"""How long an expression may run on a short text."""
CHARACTERS_PER_SECOND = 100_000
"""A second more is given for each so many characters; sound expressions are at least ten times as fast."""
LONGEST = 20_000
"""Characters of an expression; the longest in use have some hundreds."""
LARGEST = 100_000
"""Characters that an expression matches with all counted repeats written out: compiling does write them out."""


@dataclass(frozen=True)
class String:
    """Finds a text as it is. The empty one is found before each character, and behind the last one."""

    text: str

    def find(self, text: str) -> list[Span]:
        """Where it occurs, from left to right and without overlap."""
        spans, width = [], len(self.text)
        if not text or not width:
            return [(i, i) for i in range(len(text) + 1)] if text else []
        start = text.find(self.text)
        while start >= 0:
            spans.append((start, start + width))
            start = text.find(self.text, start + width)
        return spans

    def replace(self, text: str, content: str) -> str:
        """The text with each occurrence replaced."""
        return text.replace(self.text, content) if text else text


@dataclass(frozen=True)
class Regex:
    """Finds the matches of a regular expression as Oniguruma does; in an empty text there are none.

    Raises ValueError for one that is malformed, too large, or that means something else here, and when it takes too
    long on a text.
    """

    source: str

    def __post_init__(self) -> None:
        _compile(self.source)

    def find(self, text: str) -> list[Span]:
        """Where it matches, from left to right. An empty match right after another match does not count."""
        try:
            return list(self._find(text)) if text else []
        except TimeoutError:
            raise self._stopped(text) from None

    def _find(self, text: str) -> Iterator[Span]:
        compiled, limit = _compile(self.source), self._limit(text)
        end = -1
        for match in compiled.finditer(text, timeout=limit):
            if match.start() == match.end():
                break
            end = match.end()
            yield match.span()
        else:
            return
        # Python's iteration lets a match follow an empty one at the same place, Oniguruma's doesn't.
        place = match.start()
        while place <= len(text) and (match := compiled.search(text, place, timeout=limit)):
            if match.end() == match.start() == end:
                place += 1
                continue
            yield match.span()
            end = place = match.end()

    def cover(self, text: str) -> list[str] | None:
        """The matches, if none is empty and they make up the whole text. This is quick, and the usual case."""
        compiled = _compile(self.source)
        if compiled.groups:
            return None
        try:
            found = compiled.findall(text, timeout=self._limit(text))
        except TimeoutError:
            raise self._stopped(text) from None
        return found if sum(map(len, found)) == len(text) and "" not in found else None

    def replace(self, text: str, content: str) -> str:
        """The text with each match replaced; the content is text as it is, without references to groups."""
        parts, end = [], 0
        for start, stop in self.find(text):
            parts += [text[end:start], content]
            end = stop
        return "".join(parts) + text[end:]

    def _limit(self, text: str) -> float | None:
        # Looking at the clock takes almost as long as matching.
        return None if self.source in KNOWN_PATTERNS else _seconds(text)

    def _stopped(self, text: str) -> ValueError:
        return ValueError(
            f"the regular expression {_shown(self.source)} was stopped after {_seconds(text):.0f} seconds on a text of "
            f"{len(text):,} characters: it tries too many ways to match. Rewrite it so that no two of its repeats can "
            "match the same characters, or don't use this tokenizer"
        )


Pattern = String | Regex


def _seconds(text: str) -> float:
    return SECONDS + len(text) / CHARACTERS_PER_SECOND


def _shown(source: str) -> str:
    return repr(source if len(source) <= 200 else source[:200] + "...")


@lru_cache(maxsize=256)
def _compile(source: str) -> regex.Pattern[str]:
    if len(source) > LONGEST:
        raise ValueError(f"a regular expression of {len(source):,} characters is too long; the limit is {LONGEST:,}")
    try:
        # In Ruby's syntax, lines always begin and end at line ends, and sets may be nested, as in version 1.
        return regex.compile(translate(source), flags=regex.V1 | regex.MULTILINE)
    except regex.error as error:
        raise ValueError(f"{_shown(source)} is not a regular expression: {error}") from error
    except RecursionError:
        raise ValueError(f"the regular expression {_shown(source)} is nested too deeply") from None


_TOKEN = re.compile(
    r"\\x\{(?P<code>[0-9a-fA-F]{1,6})\}"
    r"|\\[pP]\{[^}]*\}|\\."
    r"|\[:\^?\w+:\]|(?P<set>\[\^?\]?)"
    r"|\(\?(?P<flags>[a-zA-Z-]+)[:)]|\(\?\#[^)]*\)"
    r"|\{(?P<least>\d*)(?P<comma>,?)(?P<most>\d*)\}(?P<plus>\+?)"
    r"|--|\|\||~~|.",
    re.DOTALL,
)


def translate(source: str) -> str:
    """Oniguruma's Ruby syntax in that of `regex`, version 1. Raises ValueError for what can't be said in it."""
    parts: list[str] = []
    inside = 0  # sets that are open
    sizes, last = [0], 0  # of the open groups, and of what a repeat would apply to
    for token in _TOKEN.finditer(source):
        text = token.group()
        if text.startswith("\\"):
            text, size = _escape(token, inside), 1
        elif inside:
            inside += bool(token["set"]) - (text == "]")
            text, size = _IN_SETS.get(text, text), 0
        elif token["set"]:
            inside, size = 1, 1
        elif token["flags"]:
            text, size = _flags(text, token["flags"]), 0
            if text.endswith(":"):
                sizes.append(0)
        elif text == "^":
            text, size = r"(?:^(?!\Z))", 0  # there is no line behind the last line end
        elif text == "(":
            sizes.append(0)
            size = 0
        elif text == ")" and len(sizes) > 1:
            size = sizes.pop()
        elif token["comma"] is not None and (token["least"] or token["most"]):
            text, times = _repeat(token)
            size = last * (times - 1)
        else:
            size = len(text)
        last = size
        sizes[-1] += size
        if sizes[-1] > LARGEST:
            raise ValueError(
                f"the regular expression {_shown(source)} is too large: with its counted repeats written out it has "
                f"more than {LARGEST:,} characters"
            )
        parts.append(text)
    return "".join(parts)


# Oniguruma's own: the joiners are no letters of words, and six numerals of Latin-1 are, but not in a set.
_WORD, _NO_WORD = r"[\w--[\u200C\u200D]]", r"[\W\u200C\u200D]"
_LETTER, _OTHER = rf"[{_WORD}²³¹¼½¾]", rf"[^{_WORD}²³¹¼½¾]"
_BEGIN, _END = rf"(?<!{_LETTER})(?={_LETTER})", rf"(?<={_LETTER})(?!{_LETTER})"
_ESCAPES = {
    r"\h": "[0-9a-fA-F]",
    r"\H": "[^0-9a-fA-F]",
    r"\w": _LETTER,
    r"\W": _OTHER,
    r"\b": f"(?:{_BEGIN}|{_END})",
    r"\B": f"(?!{_BEGIN}|{_END})",
    r"\Z": r"(?=\n?\Z)",
    r"\z": r"\Z",
}
_IN_SETS = {
    r"\h": "0-9a-fA-F",
    r"\H": "[^0-9a-fA-F]",
    r"\w": _WORD,
    r"\W": _NO_WORD,
    "[:word:]": _WORD,
    "[:^word:]": _NO_WORD,
    "[:punct:]": r"\p{P}\p{S}",
    "[:^punct:]": r"[^\p{P}\p{S}]",
    "[:digit:]": r"\p{Nd}",
    "[:^digit:]": r"\P{Nd}",
    "[:alnum:]": r"\p{Alphabetic}\p{Nd}",
    "[:^alnum:]": r"[^\p{Alphabetic}\p{Nd}]",
    # Two of these are an operation on sets in `regex` only.
    "--": r"-\-",
    "||": r"\|\|",
    "~~": r"\~\~",
}


def _escape(token: re.Match[str], inside: int) -> str:
    if token["code"]:
        return re.escape(chr(_code_point(token["code"])))
    text = token.group()
    return (_IN_SETS if inside else _ESCAPES).get(text, text)


def _code_point(digits: str) -> int:
    if int(digits, 16) > 0x10FFFF:
        raise ValueError(rf"\x{{{digits}}} in a regular expression is no character; the last one is 10FFFF")
    return int(digits, 16)


def _flags(text: str, flags: str) -> str:
    if not set(flags) <= set("imx-"):
        raise ValueError(
            f"the options {text!r} of a regular expression are not supported; there are i (ignore case), m (the dot "
            "matches line ends too) and x (white space doesn't count)"
        )
    return text.replace("m", "s")


def _repeat(token: re.Match[str]) -> tuple[str, int]:
    """The repeat as `regex` means it, and how many times it writes out what is repeated."""
    least = int(token["least"] or 0)
    most = int(token["most"] or 0) if token["comma"] else least
    text = token.group()
    if token["plus"]:
        # In Ruby this repeats the repeat, and in `regex` it would forbid to give back what was matched.
        if least > 1:
            raise ValueError(f"the repeat {text!r} of a regular expression is not supported; put (?:...)+ around it")
        text = "+" if least else "*"
    return text, max(least, most, 1)
