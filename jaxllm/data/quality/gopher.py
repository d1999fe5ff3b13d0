"""The quality and repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1 and table A1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.data.quality.chain import Filter
from jaxllm.data.quality.text_statistics import TextStatistics, Words
from jaxllm.data.quality.words import WordsAs

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")


@dataclass(frozen=True)
class GopherQuality(Filter):
    """Running text of ordinary length, in words of ordinary length, that is no list and no code.

    Words of punctuation alone are not counted for the number and mean length of words. The defaults are the paper's,
    for English; another language wants its own stop words and word lengths.
    """

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_length: float | None = 3
    """characters per word"""
    max_mean_length: float | None = 10
    max_symbols_per_word: float | None = 0.1
    """"#" per word, and ellipses per word"""
    max_bullet_lines: float | None = 0.9
    """fraction of lines that begin with a bullet"""
    max_ellipsis_lines: float | None = 0.3
    """fraction of lines that end with an ellipsis"""
    min_alphabetic_words: float | None = 0.8
    """fraction of words with a letter"""
    min_stop_words: int | None = 2
    """different ones"""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    words_as: WordsAs = "tokens"
    name: str = "gopher quality"

    def reason(self, text: TextStatistics) -> str | None:
        words = text.words(self.words_as)
        if self.min_words is not None and words.num_spoken < self.min_words:
            return f"fewer than {self.min_words} words"
        if self.max_words is not None and words.num_spoken > self.max_words:
            return f"more than {self.max_words} words"
        if self.min_mean_length is not None and words.mean_length < self.min_mean_length:
            return f"mean word length below {self.min_mean_length}"
        if self.max_mean_length is not None and words.mean_length > self.max_mean_length:
            return f"mean word length above {self.max_mean_length}"
        return self._symbols(text, max(len(words), 1)) or self._vocabulary(words)

    def _symbols(self, text: TextStatistics, num_words: int) -> str | None:
        if self.max_symbols_per_word is not None:
            if text.text.count("#") / num_words > self.max_symbols_per_word:
                return f"more than {self.max_symbols_per_word} hash signs a word"
            if (text.text.count("...") + text.text.count("…")) / num_words > self.max_symbols_per_word:
                return f"more than {self.max_symbols_per_word} ellipses a word"
        num_lines = max(len(text.lines), 1)
        if self.max_bullet_lines is not None:
            bullets = sum(line.lstrip().startswith(("•", "-")) for line in text.lines)
            if bullets / num_lines > self.max_bullet_lines:
                return f"more than {self.max_bullet_lines} of the lines begin with a bullet"
        if self.max_ellipsis_lines is not None:
            ellipses = sum(line.rstrip().endswith(("...", "…")) for line in text.lines)
            if ellipses / num_lines > self.max_ellipsis_lines:
                return f"more than {self.max_ellipsis_lines} of the lines end with an ellipsis"
        return None

    def _vocabulary(self, words: Words) -> str | None:
        if self.min_alphabetic_words is not None and words.fraction_alphabetic < self.min_alphabetic_words:
            return f"fewer than {self.min_alphabetic_words} of the words have a letter"
        if self.min_stop_words is not None:
            found = sum(word in words.counts for word in set(self.stop_words))
            if found < self.min_stop_words:
                return f"fewer than {self.min_stop_words} stop words"
        return None


@dataclass(frozen=True)
class GopherRepetition(Filter):
    """No text that says the same again and again: lines, paragraphs and n-grams of words.

    All fractions but the first two are of the characters of the text. For the longer n-grams, what is counted are the
    characters of every occurrence but the first, where occurrences that overlap a counted one are passed over.
    """

    max_duplicate_lines: float | None = 0.3
    max_duplicate_paragraphs: float | None = 0.3
    max_duplicate_line_characters: float | None = 0.2
    max_duplicate_paragraph_characters: float | None = 0.2
    max_top_ngram: tuple[tuple[int, float], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """(n, characters in the most frequent n-gram)"""
    max_duplicate_ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )
    words_as: WordsAs = "tokens"
    name: str = "gopher repetition"

    def reason(self, text: TextStatistics) -> str | None:
        if not text.text:
            return "empty"
        for what, parts, most, most_characters in (
            (
                "paragraphs",
                _PARAGRAPHS.split(text.text.strip()),
                self.max_duplicate_paragraphs,
                self.max_duplicate_paragraph_characters,
            ),
            ("lines", _LINES.split(text.text), self.max_duplicate_lines, self.max_duplicate_line_characters),
        ):
            number, characters = duplicates(parts)
            if most is not None and number / len(parts) > most:
                return f"more than {most} duplicate {what}"
            if most_characters is not None and characters / len(text.text) > most_characters:
                return f"more than {most_characters} of the characters in duplicate {what}"
        return self._ngrams(text.words(self.words_as), len(text.text))

    def _ngrams(self, words: Words, characters: int) -> str | None:
        ngrams = RepeatedNgrams(words)
        for n, most in self.max_top_ngram:
            if ngrams.top_characters(n) / characters > most:
                return f"more than {most} of the characters in the top {n}-gram"
        for n, most in self.max_duplicate_ngrams:
            # No more can be counted than lies in repeated n-grams, which is found at once and is little in most texts.
            if ngrams.repeated_characters(n) / characters <= most:
                continue
            if ngrams.duplicate_characters(n) / characters > most:
                return f"more than {most} of the characters in duplicate {n}-grams"
        return None


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts occurred before, and their characters."""
    different = set(parts)
    if len(different) == len(parts):
        return 0, 0
    return len(parts) - len(different), sum(map(len, parts)) - sum(map(len, different))


class RepeatedNgrams:
    """The n-grams of a text that occur more than once, found among those whose (n-1)-grams do: few, and ever fewer."""

    def __init__(self, words: Words):
        self._words = words
        self._ends = np.concatenate(([0], np.cumsum(words.lengths)))
        # For n: positions of the n-grams that repeat, in order, and for each which of the different ones it is.
        at = np.flatnonzero(words.repeats)
        self._found = {1: (at, words.ids[at])}

    def _of(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        if n not in self._found:
            at, which = self._of(n - 1)
            # An n-gram can repeat only where both its (n-1)-grams do: the one here, and the one a word later.
            both = np.flatnonzero(at[1:] == at[:-1] + 1)
            keys = which[both] * (which.max(initial=0) + 1) + which[both + 1]
            _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
            repeats = counts[inverse] > 1
            self._found[n] = (at[both][repeats], inverse[repeats])
        return self._found[n]

    def _characters(self, at, n: int):
        """Of the words of the n-grams at these positions, without what stands between them."""
        return self._ends[at + n] - self._ends[at]

    def top_characters(self, n: int) -> int:
        """Characters of all occurrences of the most frequent n-gram (the first of equals), spaces between words."""
        if len(self._words) < n:
            return 0
        at, which = self._of(n)
        first, times = 0, 1
        if len(at):
            counts = np.bincount(which)[which]
            first, times = at[np.argmax(counts)], counts.max()
        return int(self._characters(first, n) + n - 1) * int(times)

    def repeated_characters(self, n: int) -> int:
        """Characters of all words that lie in an n-gram that repeats."""
        at, _ = self._of(n)
        if not len(at):
            return 0
        length = len(self._words) + 1
        begun, ended = np.bincount(at, minlength=length), np.bincount(at + n, minlength=length)
        return int(self._words.lengths @ (np.cumsum(begun - ended)[:-1] > 0))

    def duplicate_characters(self, n: int) -> int:
        """Characters in n-grams that were met before, none counted twice.

        Going from the left, an n-gram that was met before is counted and jumped over, else one word is stepped on.
        """
        at, which = self._of(n)
        met: set[int] = set()
        total, free = 0, 0
        for position, ngram in zip(at.tolist(), which.tolist(), strict=True):
            if position < free:
                continue
            if ngram in met:
                total += int(self._characters(position, n))
                free = position + n
            met.add(ngram)
        return total
