"""What a language model has to beat: the next byte predicted from the few before it.

Interpolated Kneser-Ney smoothing with three discounts (Chen and Goodman 1998, section 3; Kneser and Ney 1995). With
c(g) the count of an n-gram, and x any symbol after a context,

    p(b | context) = (c(context b) - D(c(context b)) + sum over x of D(c(context x)) * p(b | shorter context))
                     / sum over x of c(context x)

For the longest n-grams c is how often they occur, for the shorter ones how many different symbols occur before them.
Below the empty context stands the uniform distribution over 256 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

# A document is preceded by `order` symbols that stand for its start. So there are 257 symbols of 9 bits, and an n-gram
# is a number of n * 9 bits, of which 63 fit.
_START = 256
_BITS = np.uint64(9)
MAX_ORDER = 6

# The discounts are estimated from how many n-grams occur once, twice and so on, which fails on a small text; without
# any discount, what was never seen would be impossible.
_DEFAULT_DISCOUNT = 0.5
_LEAST_DISCOUNT = 0.05


def uniform_bits_per_byte() -> float:
    """What it costs to write a byte when nothing is known."""
    return 8.0


@dataclass(frozen=True, eq=False)
class _Level:
    """The n-grams of one length, and their contexts, both sorted."""

    ngrams: np.ndarray
    kept: np.ndarray
    """count of each n-gram, less its discount"""
    contexts: np.ndarray
    totals: np.ndarray
    """sum of the counts of each context's n-grams"""
    freed: np.ndarray
    """sum of their discounts"""


class ByteNGram:
    """Predicts each byte from the `order` bytes before it; made by `fit`."""

    def __init__(self, levels: list[_Level]):
        self._levels = levels

    @property
    def order(self) -> int:
        return len(self._levels) - 1

    @classmethod
    def fit(cls, documents: Iterable[bytes], order: int = 3) -> ByteNGram:
        """Counts the bytes of the documents, none of which sees another.

        Raises ValueError for an order outside 0 .. 6, and if the documents hold no bytes.
        """
        if not 0 <= order <= MAX_ORDER:
            raise ValueError(f"the order of an n-gram model must lie in 0 .. {MAX_ORDER}, got {order}")
        symbols = _join(documents, order)
        if not len(symbols):
            raise ValueError("there are no bytes to fit an n-gram model to; give it documents with text")
        ngrams, counts = np.unique(_ngrams(symbols, order + 1), return_counts=True)
        levels = [_make_level(ngrams, counts)]
        for length in range(order, 0, -1):
            # Each distinct longer n-gram puts one more symbol before its ending.
            ngrams, counts = np.unique(_endings(ngrams, length), return_counts=True)
            levels.append(_make_level(ngrams, counts))
        return cls(levels[::-1])

    def bits_per_byte(self, documents: Iterable[bytes]) -> float:
        """The mean of -log2 p over all bytes, each document from its first byte on.

        Raises ValueError if the documents hold no bytes.
        """
        symbols = _join(documents, self.order)
        if not len(symbols):
            raise ValueError("there are no bytes to score; give documents with text")
        return float(-np.log2(self._probabilities(_ngrams(symbols, self.order + 1))).mean())

    def distribution(self, context: bytes) -> np.ndarray:
        """[256] probabilities of the byte after `context`; one shorter than the order is the start of a document."""
        symbols = [_START] * self.order + list(context)
        (latest,) = _ngrams(np.array([*symbols[len(context) :], 0], np.uint64), self.order + 1)
        return self._probabilities(latest | np.arange(256, dtype=np.uint64))

    def _probabilities(self, ngrams: np.ndarray) -> np.ndarray:
        """[n] probability of the last byte of each n-gram [n] after those before it."""
        probabilities = np.full(len(ngrams), 1 / 256)
        for length, level in enumerate(self._levels, start=1):
            wanted = _endings(ngrams, length)
            totals = _look_up(level.contexts, level.totals, wanted >> _BITS)
            freed = _look_up(level.contexts, level.freed, wanted >> _BITS)
            kept = _look_up(level.ngrams, level.kept, wanted)
            # After a context that was never seen, the shorter one's distribution stands.
            probabilities = np.where(totals > 0, (kept + freed * probabilities) / np.maximum(totals, 1), probabilities)
        return probabilities


def _join(documents: Iterable[bytes], order: int) -> np.ndarray:
    """The bytes of all documents, each after `order` starts; empty if there are no bytes."""
    start = np.full(order, _START, np.uint64)
    parts = [part for document in documents if document for part in (start, np.frombuffer(document, np.uint8))]
    return np.concatenate(parts).astype(np.uint64) if parts else np.empty(0, np.uint64)


def _ngrams(symbols: np.ndarray, length: int) -> np.ndarray:
    """Each n-gram that ends in a byte, in order, as a number whose lowest bits are that byte."""
    count = len(symbols) - length + 1
    ngrams = np.zeros(count, np.uint64)
    for offset in range(length):
        ngrams = ngrams << _BITS | symbols[offset : offset + count]
    return ngrams[symbols[length - 1 :] != _START]


def _endings(ngrams: np.ndarray, length: int) -> np.ndarray:
    """The last `length` symbols of each n-gram."""
    return ngrams & np.uint64((1 << length * int(_BITS)) - 1)


def _make_level(ngrams: np.ndarray, counts: np.ndarray) -> _Level:
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, first = np.unique(ngrams >> _BITS, return_index=True)
    return _Level(
        ngrams=ngrams,
        kept=counts - discounts,
        contexts=contexts,
        totals=np.add.reduceat(counts, first),
        freed=np.add.reduceat(discounts, first),
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off a count of 0, 1, 2, and 3 or more (Chen and Goodman 1998, equation 17)."""
    having = np.bincount(np.minimum(counts, 5), minlength=6)
    discounts = np.zeros(4)
    for count in (1, 2, 3):
        if having[1] and having[count]:
            scale = having[1] / (having[1] + 2 * having[2])
            discounts[count] = count - (count + 1) * scale * having[count + 1] / having[count]
        else:
            discounts[count] = _DEFAULT_DISCOUNT
        discounts[count] = min(max(discounts[count], _LEAST_DISCOUNT), count)
    return discounts


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is no such key."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
