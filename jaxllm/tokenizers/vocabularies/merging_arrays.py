"""Merging many pieces at a time in NumPy arrays: one round makes the next merge of each piece.

`merging` does the same for one piece, and is quicker where there are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

_NOTHING = np.iinfo(np.int64).max
_PLACE = 32  # bits of a place; those above are for a rank
_SYMBOL = 21  # bits of a symbol, since symbols are characters


class PairMerger:
    """The merges of a byte pair encoding, as arrays."""

    def __init__(self, single: Sequence[int], ranks: Mapping[str, int], merged: Sequence[str]):
        """single: the symbol of each of the 256 bytes. ranks: of the pairs of symbols, each a character. merged: the
        symbol that each rank makes."""
        self._single = np.array(single, np.int64)
        self._merged = np.fromiter(map(ord, merged), np.int64, len(merged))
        pairs = np.frombuffer("".join(ranks).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        codes = _codes(pairs[::2], pairs[1::2])
        rank_of = np.fromiter(ranks.values(), np.int64, len(ranks))
        order = np.argsort(codes)
        self._codes, self._rank_of = np.append(codes[order], _NOTHING), np.append(rank_of[order] << _PLACE, 0)

    def __call__(self, pieces: Sequence[bytes]) -> Iterator[tuple[int, ...]]:
        """The symbols of each piece. No piece may be empty, or shorter than the one before it."""
        length = np.fromiter(map(len, pieces), np.int64, len(pieces))
        # A place that holds no symbol stands before each piece and at the end, so that every symbol has neighbours.
        starts = np.cumsum(length + 1) - length - 1
        data = b"".join(pieces)
        symbols = np.full(len(data) + len(length) + 1, -1)
        filled = np.ones(len(symbols), bool)
        filled[starts] = filled[-1] = False
        symbols[filled] = self._single[np.frombuffer(data, np.uint8)]
        self._merge(symbols, starts, length)
        left = symbols >= 0
        ids = iter(symbols[left].tolist())
        return (tuple(islice(ids, count)) for count in np.add.reduceat(left, starts, dtype=np.int64).tolist())

    def _merge(self, symbols: np.ndarray, starts: np.ndarray, length: np.ndarray) -> None:
        """Merges in place; what is merged away becomes -1."""
        place = np.arange(len(symbols))
        following, preceding = place + 1, place - 1
        # For each place, the rank of the pair that begins there, and the place.
        keys = np.append(self._keys(symbols[:-1], symbols[1:], place[:-1]), _NOTHING)
        for done in range(1, int(length[-1])):
            # One merge a round: so short a piece has no pair left.
            first = np.searchsorted(length, done, "right")
            begin = starts[first]
            lowest = np.minimum.reduceat(keys[begin:], starts[first:] - begin)
            lowest = lowest[lowest != _NOTHING]
            if not len(lowest):
                return
            left, rank = lowest & ((1 << _PLACE) - 1), lowest >> _PLACE
            right = following[left]
            behind, before = following[right], preceding[left]
            made = self._merged[rank]
            symbols[left], symbols[right], keys[right] = made, -1, _NOTHING
            following[left], preceding[behind] = behind, left
            keys[left] = self._keys(made, symbols[behind], left)
            keys[before] = self._keys(symbols[before], made, before)

    def _keys(self, left: np.ndarray, right: np.ndarray, places: np.ndarray) -> np.ndarray:
        codes = _codes(left, right)
        found = np.searchsorted(self._codes, codes)
        return np.where(self._codes[found] == codes, self._rank_of[found] | places, _NOTHING)


def _codes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A number for each pair of symbols; it is negative if there is no left one, or no right one."""
    return (left << _SYMBOL) | right
