"""What SentencePiece does to a text before it looks for tokens: replacements, and the treatment of white space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jaxllm.tokenizers.preparation.metaspace import META
from jaxllm.tokenizers.preparation.precompiled import parse_charsmap
from jaxllm.tokenizers.stages import Span


@dataclass(frozen=True)
class SentencePieceNormalizer:
    """At each place the longest key of the table is replaced; then spaces are dropped, put in and made visible.

    The fields are those of a model file's normalizer; user_defined are tokens that no replacement may touch.
    """

    charsmap: bytes = field(default=b"", repr=False)
    add_dummy_prefix: bool = True
    """puts a space before the text, so that its first word is spelled as any other"""
    remove_extra_whitespaces: bool = True
    """drops spaces at both ends, and all but one of those that stand together"""
    escape_whitespaces: bool = True
    """writes a space as U+2581"""
    treat_whitespace_as_suffix: bool = False
    """the space of add_dummy_prefix is put after the text"""
    user_defined: tuple[str, ...] = ()

    def __post_init__(self):
        self._table  # noqa: B018 - a damaged table is found here and not later

    def __call__(self, text: str) -> str:
        if not self._joined_spaces_are_spaces_together or self.treat_whitespace_as_suffix:
            return self.aligned(text)[0]
        if not text:
            return ""
        if self.charsmap or self.user_defined:
            parts, end = [], 0
            for begin, stop, new in self._replaced(text):
                parts += (text[end:begin], new)
                end = stop
            text = "".join(parts) + text[end:]
        space = META if self.escape_whitespaces else " "
        if self.remove_extra_whitespaces:
            text = re.sub("  +", " ", text).lstrip(" ")
        if self.escape_whitespaces:
            text = text.replace(" ", META)
        if self.add_dummy_prefix:
            text = space + text
        return text.rstrip(space) if self.remove_extra_whitespaces else text

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        units = list(self._units(text))
        begin = 0
        while self.remove_extra_whitespaces and begin < len(units) and units[begin][2] == " ":
            begin += 1
        if begin == len(units):
            return "", []
        space = META if self.escape_whitespaces else " "
        result: list[str] = []
        spans: list[Span] = []

        def put(characters: str, span: Span) -> None:
            result.extend(characters)
            spans.extend([span] * len(characters))

        if self.add_dummy_prefix and not self.treat_whitespace_as_suffix:
            put(space, (units[begin][0],) * 2)
        after_space = self.remove_extra_whitespaces
        for left, right, new in units[begin:]:
            if after_space:
                new = new.lstrip(" ")
            if new:
                put(new.replace(" ", space), (left, right))
                after_space = self.remove_extra_whitespaces and new.endswith(" ")
        end = len(text)
        while self.remove_extra_whitespaces and result and result[-1] == space:
            result.pop()
            end = spans.pop()[0]
        if self.add_dummy_prefix and self.treat_whitespace_as_suffix:
            put(space, (end, end))
        return "".join(result), spans

    def _units(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Begin, end and replacement of the parts of the text: keys of the table, and the characters between them."""
        end = 0
        for begin, stop, new in self._replaced(text):
            yield from ((i, i + 1, text[i]) for i in range(end, begin))
            yield begin, stop, new
            end = stop
        yield from ((i, i + 1, text[i]) for i in range(end, len(text)))

    def _replaced(self, text: str) -> Iterator[tuple[int, int, str]]:
        done = place = 0
        search, firsts = self._candidates.search, self._firsts
        while match := search(text, place):
            begin, place = match.span()
            if match.lastgroup == "user":
                yield begin, place, match.group()
                done = place
                continue
            for start in (begin - 1, begin) if begin > done and text[begin - 1] in firsts else (begin,):
                if end := self._longest_key(text, start):
                    yield start, end, self._table[text[start:end]]
                    done = place = end
                    break

    def _longest_key(self, text: str, begin: int) -> int:
        """Where the longest key that is at a place ends, 0 if there is none."""
        ends = range(min(begin + self._longest, len(text)), begin, -1)
        return next((end for end in ends if text[begin:end] in self._table), 0)

    @cached_property
    def _table(self) -> Mapping[str, str]:
        return parse_charsmap(self.charsmap)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._table), default=0)

    @cached_property
    def _firsts(self) -> set[str]:
        return {key[0] for key in self._table if len(key) > 1}

    @cached_property
    def _candidates(self) -> re.Pattern[str]:
        """Finds user-defined tokens, and keys of the table by their only or their second character.

        Second characters are rare in text, first ones are not: "A" may begin a letter with an accent.
        """
        telling = {key[:2][-1] for key in self._table}
        # `re` is quick only for sets within the first 65,536 characters; of the others, which are rare, any may be one.
        characters = "".join(map(re.escape, sorted(c for c in telling if c < "\U00010000")))
        choices = [f"[{characters}\U00010000-\U0010ffff]"] if telling else []
        if self.user_defined:
            longest_first = sorted(self.user_defined, key=len, reverse=True)
            choices.insert(0, f"(?P<user>{'|'.join(map(re.escape, longest_first))})")
        return re.compile("|".join(choices) or r"(?!)")

    @cached_property
    def _joined_spaces_are_spaces_together(self) -> bool:
        """Whether spaces may be dropped after all replacements, which is quicker: none has several, or protects one."""
        return not any("  " in new for new in self._table.values()) and not any(
            " " in word for word in self.user_defined
        )
