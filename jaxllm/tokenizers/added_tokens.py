"""Tokens that are found in a text before anything else looks at it: special ones, and words added by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class AddedToken:
    """A token with a text of its own that no other step cuts or changes; the fields are those of Hugging Face's files.

    A special token is no text: encoding makes one only where it is allowed to, and decoding leaves it out. Any other
    added token is text, and is made wherever its content occurs.
    """

    content: str
    id: int
    special: bool = True
    single_word: bool = False
    """only where no letter, digit or underscore touches it"""
    lstrip: bool = False
    """white space before it is part of it"""
    rstrip: bool = False
    """white space after it is part of it"""
    normalized: bool = False
    """it is looked for in the normalized text, not in the text as given"""

    def __post_init__(self):
        if not self.content:
            raise ValueError(f"the added token of id {self.id} has no content")


class Found(NamedTuple):
    """A stretch of a text: an added token, or None for what lies between."""

    token: AddedToken | None
    begin: int
    end: int


class AddedTokenFinder:
    """Finds a set of added tokens: the leftmost first, and of those that begin at one place the longest."""

    def __init__(self, tokens: Iterable[AddedToken]):
        self._tokens = {token.content: token for token in tokens}
        contents = sorted(self._tokens, key=len, reverse=True)
        self._search = re.compile("|".join(map(re.escape, contents))).finditer if contents else None

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def first(self, text: str) -> str | None:
        """The first of the tokens' contents in the text, whatever is around it."""
        match = next(self._search(text), None) if self._search else None
        return match and match.group()

    def __call__(self, text: str) -> Iterator[Found]:
        """The stretches of the text in order, without empty ones between tokens."""
        end = 0
        for match in self._search(text) if self._search else ():
            token = self._tokens[match.group()]
            if match.start() < end or (token.single_word and _touches_word(text, *match.span())):
                continue
            begin, stop = match.span()
            while token.lstrip and begin > end and text[begin - 1].isspace():
                begin -= 1
            while token.rstrip and stop < len(text) and text[stop].isspace():
                stop += 1
            if begin > end:
                yield Found(None, end, begin)
            yield Found(token, begin, stop)
            end = stop
        if end < len(text):
            yield Found(None, end, len(text))


def _touches_word(text: str, begin: int, end: int) -> bool:
    around = text[max(begin - 1, 0) : begin] + text[end : end + 1]
    return re.search(r"\w", around) is not None
