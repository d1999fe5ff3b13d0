"""What filters want to know of a text; each thing is computed when it is first asked for, then shared by all."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property

import numpy as np
import regex

from jaxllm.data.quality.words import SYMBOLS, WordsAs, split_words

_LETTER = regex.compile(r"\p{L}")
_ASCII = re.compile(r"[\x00-\x7f]+")
_NOT_LETTERS = bytes(i for i in range(128) if not chr(i).isalpha())
_NOT_CAPITALS = bytes(i for i in range(128) if not chr(i).isupper())
_NOT_ALPHANUMERIC = bytes(i for i in range(128) if not chr(i).isalnum())


class TextStatistics:
    """One text, with its lines and words."""

    def __init__(self, text: str):
        self.text = text
        self._words: dict[WordsAs, Words] = {}

    def words(self, words_as: WordsAs) -> Words:
        if words_as not in self._words:
            self._words[words_as] = Words(split_words(self.text, words_as))
        return self._words[words_as]

    @cached_property
    def lines(self) -> list[str]:
        """As split at every kind of line end."""
        return self.text.splitlines()

    @cached_property
    def fraction_alphanumeric(self) -> float:
        """Of the characters, those that are letters or digits of any script."""
        found = len(self._ascii.translate(None, _NOT_ALPHANUMERIC)) + sum(map(str.isalnum, self._not_ascii))
        return found / max(len(self.text), 1)

    @cached_property
    def fraction_letters(self) -> float:
        """Of the characters, those that are letters of any script."""
        found = len(self._ascii.translate(None, _NOT_LETTERS)) + sum(map(str.isalpha, self._not_ascii))
        return found / max(len(self.text), 1)

    @cached_property
    def fraction_special(self) -> float:
        """Of the characters, those that are no letters, digits or white space."""
        visible = sum(map(len, self.text.split()))
        return visible / max(len(self.text), 1) - self.fraction_alphanumeric

    @cached_property
    def fraction_capitals(self) -> float:
        """Of the letters, those that are capitals; 0 if there are none."""
        found = len(self._ascii.translate(None, _NOT_CAPITALS)) + sum(map(str.isupper, self._not_ascii))
        return found / max(self.fraction_letters * len(self.text), 1)

    # Most characters are ASCII, and a hundred times faster counted as bytes.
    @cached_property
    def _ascii(self) -> bytes:
        return self.text.encode("ascii", "ignore")

    @cached_property
    def _not_ascii(self) -> str:
        return "" if self.text.isascii() else _ASCII.sub("", self.text)


class Words:
    """The words of a text, W of them, U different ones."""

    def __init__(self, words: list[str]):
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each different word occurs, in the order of their first occurrences."""
        return Counter(self.words)

    @cached_property
    def ids(self) -> np.ndarray:
        """int64 [W]: which of the different words each word is."""
        number = dict(zip(self.counts, range(len(self.counts)), strict=True))
        return np.fromiter(map(number.__getitem__, self.words), np.int64, len(self.words))

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [W]: characters of each word."""
        return self._unique_lengths[self.ids]

    @cached_property
    def repeats(self) -> np.ndarray:
        """bool [W]: whether the word occurs elsewhere too."""
        return self._unique_counts[self.ids] > 1

    @cached_property
    def _unique_lengths(self) -> np.ndarray:
        return np.fromiter(map(len, self.counts), np.int64, len(self.counts))

    @cached_property
    def _unique_counts(self) -> np.ndarray:
        return np.fromiter(self.counts.values(), np.int64, len(self.counts))

    @cached_property
    def _unique_spoken(self) -> np.ndarray:
        return np.fromiter((not SYMBOLS.issuperset(word) for word in self.counts), bool, len(self.counts))

    @cached_property
    def num_spoken(self) -> int:
        """Words that are more than punctuation."""
        return int(self._unique_counts @ self._unique_spoken)

    @cached_property
    def mean_length(self) -> float:
        """Characters per word that is more than punctuation; 0 if there is none."""
        return float(self._unique_counts * self._unique_lengths @ self._unique_spoken) / max(self.num_spoken, 1)

    @cached_property
    def fraction_alphabetic(self) -> float:
        """Of all words, those with a letter; 0 if there are none."""
        with_letter = np.fromiter((_LETTER.search(w) is not None for w in self.counts), bool, len(self.counts))
        return float(self._unique_counts @ with_letter) / max(len(self), 1)
