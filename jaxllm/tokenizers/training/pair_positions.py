"""Where each adjacent pair of symbols is in the pieces of a text, while pairs are merged into new symbols.

All pieces lie in one array with a gap after each, so that a merge is a handful of array operations on the positions of
its pair. A merged symbol stays at the position of its left half, and links lead over what is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

import numpy as np

_GAP = -1
# No UTF-8 has this byte, so it can stand between pieces.
_BETWEEN = b"\xff"
_SHIFT = 48
_PAIR = (1 << _SHIFT) - 1

Positions = np.ndarray
"""Where the left symbol of a pair is, ascending, int32 or int64. Some may have lost the pair since."""


class PairPositions:
    """The pieces as symbols 0, 1, 2 ..., of which `most` at most will be there, and the pairs that occur in them."""

    def __init__(self, pieces: Mapping[str, int], symbol_of_byte: Mapping[int, int], most: int, min_count: int):
        """pieces: how often each occurs. Pairs that occur less often than min_count don't count as pairs."""
        self._most, self._min_count = most, min_count
        encoded = [piece.encode("utf-8") for piece in pieces]
        data = np.frombuffer(_BETWEEN.join([b"", *encoded, b""]), np.uint8)
        place = np.int32 if len(data) < 2**31 else np.int64
        table = np.full(256, _GAP, np.int32)
        for byte, symbol in symbol_of_byte.items():
            table[byte] = symbol
        table[_BETWEEN[0]] = _GAP
        self._symbols = table[data]
        self._next = np.arange(1, len(data) + 1, dtype=place)
        self._previous = np.arange(-1, len(data) - 1, dtype=place)
        # The frequency of the piece at each position; that of the gap before the first piece is never looked at.
        lengths = np.fromiter((len(piece) + 1 for piece in encoded), np.int64, len(encoded))
        frequencies = np.fromiter(pieces.values(), np.int64, len(pieces))
        self._frequency = np.concatenate([np.zeros(1, np.int64), np.repeat(frequencies, lengths)])
        # The positions of each pair and how often it is there, as of when it was last looked at.
        self._places: dict[int, tuple[Positions, int]] = {}
        # A pair is a number, left * most + right, and so ordered as pairs are; an entry is that minus count << _SHIFT,
        # since whole numbers are compared much faster than tuples. A count may have fallen since.
        self._heap: list[int] = []
        starts = np.flatnonzero((self._symbols[:-1] >= 0) & (self._symbols[1:] >= 0)).astype(place)
        left, right = self._symbols[starts], self._symbols[starts + 1]
        self._add(np.int64(most) * left + right, starts, self._frequency[starts])

    def pop_most_frequent(self) -> tuple[int, int] | None:
        """The pair that occurs most often, and of equal ones the lowest, for merge(); None if there is none left."""
        heap, symbols = self._heap, self._symbols
        while heap:
            entry = heappop(heap)
            pair = entry & _PAIR
            if pair not in self._places:
                continue
            left, right = divmod(pair, self._most)
            places, count = self._places[pair]
            still = (symbols.take(places) == left) & (symbols.take(self._next.take(places)) == right)
            if not still.all():
                places = places.compress(still)
                count = int(self._frequency.take(places).sum())
                self._places[pair] = places, count
            if count >= self._min_count:
                entry = pair - (count << _SHIFT)
                if not heap or entry <= heap[0]:
                    return left, right
                heappush(heap, entry)
        return None

    def merge(self, pair: tuple[int, int], symbol: int, is_new: bool) -> None:
        """Replaces the pair that pop_most_frequent gave, from left to right in each piece, by a symbol.

        is_new: whether no pair has become this symbol before.
        """
        places, _ = self._places.pop(pair[0] * self._most + pair[1])
        if pair[0] == pair[1]:
            places = self._without_overlap(places)
        gone = self._next.take(places)
        after = self._next.take(gone)
        self._symbols[places], self._symbols[gone] = symbol, _GAP
        self._next[places], self._previous[after] = after, places
        if not is_new:
            places = np.flatnonzero(self._symbols == symbol).astype(places.dtype)
            after = self._next.take(places)
        before = self._previous.take(places)
        left, right = (self._symbols.take(at).astype(np.int64) for at in (before, after))
        has_left = left >= 0
        # Where the symbol follows itself, the pair is that of the later one with what is before it.
        has_right = (right >= 0) & (right != symbol)
        frequency = self._frequency.take(places)
        self._add(
            np.concatenate(
                [left.compress(has_left) * self._most + symbol, right.compress(has_right) + symbol * self._most]
            ),
            np.concatenate([before.compress(has_left), places.compress(has_right)]),
            np.concatenate([frequency.compress(has_left), frequency.compress(has_right)]),
        )

    def _without_overlap(self, places: Positions) -> Positions:
        """Of a pair of equal symbols, as in "aaaa", every second place of each run."""
        follows = np.zeros(len(places), bool)
        follows[1:] = self._next[places[:-1]] == places[1:]
        index = np.arange(len(places))
        since_start = index - np.maximum.accumulate(np.where(follows, 0, index))
        return places[since_start % 2 == 0]

    def _add(self, pairs: np.ndarray, places: Positions, frequencies: np.ndarray) -> None:
        """Remembers pairs, in place of what was known of the same pairs."""
        if not len(pairs):
            return
        order = pairs.argsort(kind="stable")
        pairs, places = pairs.take(order), places.take(order)
        differs = np.empty(len(pairs), bool)
        differs[0] = True
        np.not_equal(pairs[1:], pairs[:-1], out=differs[1:])
        (starts,) = differs.nonzero()
        counts = np.add.reduceat(frequencies.take(order), starts)
        (frequent,) = (counts >= self._min_count).nonzero()
        ends = np.append(starts, len(pairs)).take(frequent + 1)
        starts = starts.take(frequent)
        for pair, count, start, end in zip(
            pairs.take(starts).tolist(), counts.take(frequent).tolist(), starts.tolist(), ends.tolist(), strict=True
        ):
            self._places[pair] = places[start:end], count
            heappush(self._heap, pair - (count << _SHIFT))
