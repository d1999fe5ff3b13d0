"""Merging adjacent symbols of a piece by rank, as every byte pair encoding does.

The lowest rank is merged first, and of equal ranks the leftmost, until no adjacent pair has one. What has a rank is
said in one of two ways: pairs of symbols do (a list of merges), or the joined symbols do (a list of tokens in the
order of their worth, as in tiktoken's and SentencePiece's files, where any two symbols that make a token may merge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from operator import add
from typing import AnyStr


def merge_pairs(symbols: str, ranks: Mapping[str, int], merged: Sequence[str]) -> str:
    """Merges a string of symbols, each one character, in O(n log n).

    ranks: of the pairs, as strings of two symbols. merged: the symbol that each rank makes.
    """
    # A merged symbol takes the left one's place, and the right one's place becomes empty.
    parts = [*symbols, ""]  # the end is a neighbour too
    following = list(range(1, len(parts) + 1))
    preceding = list(range(-1, len(parts) - 1))
    waiting = [(ranks[pair], i) for i, pair in enumerate(map(add, symbols, symbols[1:])) if pair in ranks]
    heapify(waiting)
    while waiting:
        rank, i = heappop(waiting)
        j = following[i]
        # The pair may have been merged with its neighbours since it was put there.
        if ranks.get(parts[i] + parts[j]) != rank:
            continue
        parts[i], parts[j] = merged[rank], ""
        following[i] = k = following[j]
        preceding[k] = i
        for left, right in ((preceding[i], i), (i, k)):
            if left >= 0 and (changed := ranks.get(parts[left] + parts[right])) is not None:
                heappush(waiting, (changed, left))
    return "".join(parts)


def merge_tokens(symbols: Sequence[AnyStr], ranks: Mapping[AnyStr, int]) -> list[AnyStr]:
    """Merges symbols, strings or bytes of any length, in O(n log n). ranks: of the tokens that two symbols may make."""
    if not symbols:
        return []
    empty = symbols[0][:0]
    parts = [*symbols, empty]
    following = list(range(1, len(parts) + 1))
    preceding = list(range(-1, len(parts) - 1))
    waiting = [
        (rank, i) for i, pair in enumerate(map(add, parts, symbols[1:])) if (rank := ranks.get(pair)) is not None
    ]
    heapify(waiting)
    last = len(symbols)
    while waiting:
        rank, i = heappop(waiting)
        j = following[i]
        if j >= last or not parts[i] or ranks.get(parts[i] + parts[j]) != rank:
            continue
        parts[i], parts[j] = parts[i] + parts[j], empty
        following[i] = k = following[j]
        preceding[k] = i
        for left, right in ((preceding[i], i), (i, k)):
            if left >= 0 and right < last and (changed := ranks.get(parts[left] + parts[right])) is not None:
                heappush(waiting, (changed, left))
    return [part for part in parts if part]


def merge_slowly(symbols: Sequence[AnyStr], ranks: Mapping[tuple[AnyStr, AnyStr], int]) -> list[AnyStr]:
    """The definition: of the adjacent pairs with the lowest rank, the leftmost is merged, until none has a rank."""
    tokens = list(symbols)
    while found := [(ranks[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:], strict=False)) if pair in ranks]:
        _, i = min(found)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return tokens
