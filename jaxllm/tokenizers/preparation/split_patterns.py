r"""How text is cut into pieces before bytes are merged; no merge crosses a cut.

The patterns are part of a vocabulary: text cut in another way gets other ids. They are written in the form that
Hugging Face's files carry. A pattern that is known here is translated for Python's `re`, which is twice as fast as the
package `regex`, and its classes (\p{L} and so on) are those of a fixed version of Unicode; others go to `regex`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property, reduce
from itertools import accumulate, chain, compress, count
from operator import not_

import regex

from jaxllm.tokenizers.preparation.unicode_classes import WHITE_SPACE, Ranges, class_of, ranges_of
from jaxllm.tokenizers.stages import Span

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BEFORE_WORD = r"[^\r\n\p{L}\p{N}]?"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = rf"{_CONTRACTIONS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}"

SPLIT_PATTERNS: dict[str, str] = {
    # Contractions; words, numbers and punctuation, each with the space before it; white space.
    # GPT-2, r50k, p50k, OLMo, Phi-2, and the ByteLevel step of Hugging Face's files.
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Also: contractions in capitals, numbers three digits at a time, line ends with the punctuation or space before.
    # cl100k (GPT-3.5 and GPT-4).
    "cl100k": _CL100K,
    # Llama 3 cuts as cl100k does.
    "llama3": _CL100K,
    # As cl100k, but each digit alone. Qwen 1.5, 2, 2.5 and 3.
    "qwen2": rf"{_CONTRACTIONS}|{_BEFORE_WORD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}",
    # Words also end before a capital that follows a small letter, keep their accents and their contraction; a slash
    # stays with the punctuation before it. o200k (GPT-4o and after).
    "o200k": (
        rf"{_BEFORE_WORD}[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_CONTRACTIONS}?"
        rf"|{_BEFORE_WORD}[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_CONTRACTIONS}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}"
    ),
}

# Letters with case, as DeepSeek's first tokenizer lists them.
_CASED = (
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_LINE_END = "[\r\n]"
_EAST_ASIAN = "[一-龥ࠀ-一가-\ud7ff]+"

SPLIT_SEQUENCES: dict[str, tuple[str, ...]] = {
    # Each pattern cuts the pieces that those before it left.
    "deepseek-llm": (
        *(_LINE_END, rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _EAST_ASIAN),
        r"\p{N}",
    ),
    "deepseek-coder": (_LINE_END, r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}"),
    # DeepSeek-V3 and R1.
    "deepseek-v3": (
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        "|[^\r\n"
        r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
        "[\r\n]*"
        r"|\s*"
        "[\r\n]+"
        r"|\s+(?!\S)|\s+",
    ),
}

_OTHER_SPELLINGS = (
    # The release of GPT-2, and the ByteLevel step of the library `tokenizers`.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # tiktoken's for gpt2 and for cl100k.
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s",
)
TOTAL_PATTERNS = frozenset([*SPLIT_PATTERNS.values(), *_OTHER_SPELLINGS])
"""Known patterns that match every character."""
KNOWN_PATTERNS = TOTAL_PATTERNS.union(*SPLIT_SEQUENCES.values())
"""The patterns that are translated for `re`. They take time linear in the text, so they need no time limit."""


def splitter(pattern: str | Sequence[str]) -> Callable[[str], list[str]]:
    """A function that cuts a text into pieces, whose concatenation is the text. See Splitter."""
    return Splitter((pattern,) if isinstance(pattern, str) else tuple(pattern))


class Splitter:
    """A `Cut` by patterns, each of which cuts the pieces that those before it left.

    The pieces are the matches of the pattern, and what lies between two of them. Raises ValueError if a pattern is
    not a regular expression.
    """

    def __init__(self, patterns: Sequence[str]):
        self.patterns = tuple(patterns)
        self._steps = [_KnownPattern(one) if one in KNOWN_PATTERNS else _any_pattern(one) for one in self.patterns]

    def __reduce__(self):
        return Splitter, (self.patterns,)

    def __call__(self, text: str) -> list[str]:
        if len(self._steps) == 1:
            return self._steps[0](text)
        start = [text] if text else []
        return reduce(lambda pieces, step: list(chain.from_iterable(map(step, pieces))), self._steps, start)

    def spans(self, text: str) -> list[Span]:
        ends = list(accumulate(map(len, self(text))))
        return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


_QUICKER = (
    # Nothing that an optional character takes could begin what follows, so there is no use in giving it back.
    (rf"{_BEFORE_WORD}\p{{L}}+", rf"{_BEFORE_WORD}+\p{{L}}+"),
    (r" ?\p{L}+", r" ?+\p{L}+"),
    (r" ?[^\s\p{L}\p{N}]+", r" ?+[^\s\p{L}\p{N}]+"),
    # White space up to its last line end: line by line, not all of it and then back.
    (r"|\s*[\r\n]+", r"|(?:[^\S\r\n]*+[\r\n]++)++"),
)
"""Parts of known patterns, and what matches the same in less time."""
_POSSESSION_WORKS = (3, 11, 5)  # before it, `re` takes too much where a possessive group repeats


class _KnownPattern:
    """A pattern of KNOWN_PATTERNS, compiled for ASCII text and for other text when such text comes first."""

    def __init__(self, pattern: str):
        is_total = pattern in TOTAL_PATTERNS
        for slow, quick in _QUICKER if sys.version_info >= _POSSESSION_WORKS else ():
            pattern = pattern.replace(slow, quick)
        self._complete = pattern if is_total else f"{pattern}|{_between(pattern)}"
        self._explicit_astral = _WIDE.search(pattern) is not None

    @cached_property
    def _ascii(self) -> Callable[[str], list[str]]:
        return re.compile(_for_re(self._complete, 0x7F)).findall

    @cached_property
    def _any(self) -> Callable[[str], list[str]]:
        return re.compile(_for_re(self._complete, 0x10FFFF if self._explicit_astral else 0xFFFF)).findall

    def __call__(self, text: str) -> list[str]:
        if text.isascii():
            return self._ascii(text)
        if self._explicit_astral or not _WIDE.search(text):
            return self._any(text)
        # Sets of characters beyond U+FFFF make `re` slow, so a stand-in of the same class takes the place of each.
        wide = _WIDE.findall(text)
        pieces = self._any(_WIDE.sub(_stand_in, text))
        originals = iter(wide)
        for i in compress(count(), map(not_, map(str.isascii, pieces))):
            if _STAND_IN.search(pieces[i]):
                pieces[i] = _STAND_IN.sub(lambda _: next(originals), pieces[i])
        return pieces


def _between(pattern: str) -> str:
    """A pattern of what lies between two matches: all characters until the pattern matches again."""
    if one_set := re.fullmatch(r"(?:\[([^\]^\\]+|\\r\\n)\]|(\\p\{\w+\}))(?:\+|\{1,3\})?", pattern):
        return f"[^{one_set[1] or one_set[2]}]+"
    return f"(?s:.)(?:(?!{pattern})(?s:.))*"


# Surrogates are the stand-ins, since no text that can be encoded has them; one that is there all the same is seen as
# what it is, a character of no class.
_STAND_INS = {letter: chr(0xD800 + i) for i, letter in enumerate("ultmoMNPS-")}
_STAND_IN = re.compile("[\ud800-\ud809]")
_WIDE = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")


def _stand_in(match: re.Match[str]) -> str:
    return _STAND_INS[class_of(match.group())]


_SPACE_IN_LINE: Ranges = ((0x9, 0x9), (0xB, 0xC), *WHITE_SPACE[1:])
_PARTS = re.compile(r"\\p\{(\w+)\}|\[\^\\S\\r\\n\]|\\s|\\S|\[\^?|\]|\\.|.", re.DOTALL)


@cache
def _for_re(pattern: str, last: int) -> str:
    r"""The pattern for Python's `re`: classes are written as ranges of characters, none of them beyond `last`.

    `last` may be U+FFFF: then the characters after it are seen as their stand-ins.
    """
    written, in_set = [], False
    for part in _PARTS.finditer(pattern):
        match part.group():
            case "\\s":
                characters = _ranges_for_re(WHITE_SPACE, last)
                written.append(characters if in_set else f"[{characters}]")
            case "[^\\S\\r\\n]":
                written.append(f"[{_ranges_for_re(_SPACE_IN_LINE, last)}]")
            case "\\S" if not in_set:
                written.append(f"[^{_ranges_for_re(WHITE_SPACE, last)}]")
            case text if name := part.group(1):
                characters = _ranges_for_re(ranges_of(name), last)
                written.append(characters if in_set else f"[{characters}]")
            case text:
                in_set = (in_set or text.startswith("[")) and text != "]"
                written.append(text)
    return "".join(written)


def _ranges_for_re(ranges: Ranges, last: int) -> str:
    written = [f"\\U{a:08x}-\\U{min(b, last):08x}" for a, b in ranges if a <= last]
    if last == 0xFFFF:
        written += [
            stand_in
            for letter, stand_in in _STAND_INS.items()
            if any(class_of(chr(a)) == letter or class_of(chr(b)) == letter for a, b in ranges if a > last)
        ]
    # A set must not be empty: U+FFFF is no character.
    return "".join(written) or "\\uffff"


def _any_pattern(pattern: str) -> Callable[[str], list[str]]:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"the split pattern {pattern!r} is not a regular expression: {error}") from error

    def split(text: str) -> list[str]:
        pieces, end = [], 0
        for match in compiled.finditer(text):
            if match.start() == match.end():
                continue
            if match.start() > end:
                pieces.append(text[end : match.start()])
            pieces.append(match.group())
            end = match.end()
        if end < len(text):
            pieces.append(text[end:])
        return pieces

    return split
