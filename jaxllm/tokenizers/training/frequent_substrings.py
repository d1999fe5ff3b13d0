"""The substrings that occur in words more than once, found by sorting the begins of all suffixes.

It is the seed of a unigram vocabulary. Only substrings are of interest that can be followed by more than one thing:
if "nigra" is always followed by "m", then "nigram" occurs as often and says more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np


class Words(NamedTuple):
    """Words one after the other, each followed by a place for its end. All arrays have an element for each place."""

    texts: list[str]
    """the words, sorted"""
    codes: np.ndarray
    """the code point of each character plus one, and 0 at the end of a word; int32"""
    left: np.ndarray
    """how many characters of the word are still to come; int32"""
    word: np.ndarray
    """the index of the word; int32"""
    counts: np.ndarray
    """for each word, how often it occurs; float64"""

    @property
    def begins(self) -> np.ndarray:
        """For each word, the place of its first character."""
        return self.ends - np.fromiter(map(len, self.texts), np.int64, len(self.texts))

    @property
    def ends(self) -> np.ndarray:
        """For each word, the place after its last character."""
        return np.nonzero(self.codes == 0)[0]

    def text(self, place: int, length: int) -> str:
        return "".join(chr(code - 1) for code in self.codes[place : place + length])


def lay_out(words: Mapping[str, int]) -> Words:
    """Words with their counts as arrays, in alphabetical order."""
    texts = sorted(word for word in words if word)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    ends = np.cumsum(lengths + 1) - 1
    codes = np.zeros(int(lengths.sum()) + len(texts), np.int32)
    joined = "\0".join(texts).encode("utf-32-le", "surrogatepass")
    if texts:
        codes[:-1] = np.frombuffer(joined, "<i4") + 1
        codes[ends] = 0
    word = np.repeat(np.arange(len(texts), dtype=np.int32), lengths + 1)
    left = (np.repeat(ends, lengths + 1) - np.arange(len(codes))).astype(np.int32)
    counts = np.array([words[text] for text in texts], np.float64)
    return Words(texts, codes, left, word, counts)


class Substrings(NamedTuple):
    """Different substrings of one length, in alphabetical order."""

    length: int
    places: np.ndarray
    """for each, a place where it is"""
    counts: np.ndarray
    """for each, how often it occurs"""
    all_places: np.ndarray
    """every place where one of them is"""
    which: np.ndarray
    """for each of all_places, the index of the substring that is there"""


def frequent_substrings(words: Words, longest: int, min_count: float = 2.0) -> Iterator[Substrings]:
    """The substrings of each length from 2 on that occur at least min_count times and that can be followed by
    different things, the end of a word being one, or that have the length `longest`."""
    order = _sorted_suffixes(words, longest)
    shared = _shared_begins(words, order, longest)
    left, weights = words.left[order], words.counts[words.word[order]]
    for length in range(2, longest + 1):
        firsts = np.nonzero(shared < length)[0]
        if not firsts.size:
            return
        sizes = np.diff(firsts, append=len(order))
        counts = np.add.reduceat(weights, firsts)
        # Within a group, how much the neighbours that differ first have in common; nothing does for one suffix alone.
        inner = shared.copy()
        inner[firsts] = longest + 1
        branching = np.minimum.reduceat(inner, firsts) == length
        ending = (sizes == 1) & (left[firsts] == length)
        chosen = (left[firsts] >= length) & (counts >= min_count)
        chosen &= branching | ending | (length == longest)
        which = np.repeat(np.where(chosen, np.cumsum(chosen) - 1, -1), sizes)
        members = which >= 0
        yield Substrings(length, order[firsts[chosen]], counts[chosen], order[members], which[members])


def _sorted_suffixes(words: Words, longest: int) -> np.ndarray:
    """All places, sorted by as many of the characters and ends of words that follow."""
    _, ranks = np.unique(words.codes, return_inverse=True)
    ranks = ranks.astype(np.int64)
    compared = 1
    while compared < longest:
        # Places are sorted by as many characters; twice as many are two such stretches, one after the other.
        following = np.zeros_like(ranks)
        following[:-compared] = ranks[compared:]
        _, ranks = np.unique(ranks * (ranks.max(initial=0) + 1) + following, return_inverse=True)
        compared *= 2
    return np.argsort(ranks, kind="stable")


def _shared_begins(words: Words, order: np.ndarray, longest: int) -> np.ndarray:
    """How many characters, up to `longest`, each sorted suffix shares with the one before it; -1 for the first."""
    shared = np.zeros(len(order), np.int32)
    same = np.ones(len(order), bool)
    same[:1] = False
    last = len(order) - 1
    before = np.roll(order, 1)
    for length in range(longest):
        here = words.codes[np.minimum(order + length, last)]
        same &= (here == words.codes[np.minimum(before + length, last)]) & (here != 0)
        shared[same] += 1
    shared[:1] = -1
    return shared


def frequent_substrings_slowly(words: Mapping[str, int], longest: int, min_count: float = 2.0) -> dict[str, int]:
    """The definition: all substrings are listed with what follows them, and counted."""
    counts: dict[str, int] = {}
    followers: dict[str, set[str]] = {}
    for word, count in words.items():
        for begin in range(len(word)):
            for end in range(begin + 2, min(begin + longest, len(word)) + 1):
                text = word[begin:end]
                counts[text] = counts.get(text, 0) + count
                # Each word ends in its own way, so that two words with the same ending make it a substring of interest.
                followers.setdefault(text, set()).add(word[end] if end < len(word) else f"end of {begin} {word}")
    return {
        text: count
        for text, count in counts.items()
        if count >= min_count
        and (len(text) == longest or len(followers[text]) > 1 or next(iter(followers[text])).startswith("end of"))
    }
