"""Suffix arrays of bytes or tokens, by prefix doubling on whole arrays, and the repeats that they show."""

from __future__ import annotations

import numpy as np

# Ranks and positions share a 64-bit number while they are sorted.
LONGEST = 2**32 - 2


def suffix_array(values: np.ndarray, depth: int | None = None) -> np.ndarray:
    """The starts of all suffixes of `values` in the order of the suffixes, int64[n]; a prefix comes before the longer.

    values: unsigned integers, in memory or memory-mapped. depth: suffixes that agree in so many values may stay in any
    order, which saves time on long repeats. Takes some 50 bytes of memory a value. Raises ValueError beyond 2^32 - 2
    values.

    Manber and Myers' doubling (1993): once the suffixes are sorted by h values, sorting them by (rank of i, rank of
    i + h) sorts them by 2h. As in Larsson and Sadakane (2007), what is alone in its group is left out from then on:
    of text, nearly all after the first two rounds.
    """
    size = len(values)
    if size > LONGEST:
        raise ValueError(f"a suffix array is made of at most {LONGEST} values at a time, got {size}: make shards")
    keys, sorted_by = _first_values(values)
    order = np.argsort(keys)
    rank = np.empty(size, np.int64)
    places, rank_of_place = _groups(keys[order], np.arange(size))
    rank[order] = rank_of_place
    rank_beyond = np.uint64(0)
    while len(places) and (depth is None or sorted_by < depth):
        suffixes = order[places]
        following = suffixes + sorted_by
        second = np.full(len(suffixes), rank_beyond)
        inside = following < size
        second[inside] = rank[following[inside]].astype(np.uint64) + np.uint64(1)
        keys = (rank[suffixes].astype(np.uint64) << np.uint64(32)) | second
        by_key = np.argsort(keys)
        suffixes = suffixes[by_key]
        order[places] = suffixes
        places, ranks = _groups(keys[by_key], places)
        rank[suffixes] = ranks
        sorted_by *= 2
    return order


def _first_values(values: np.ndarray) -> tuple[np.ndarray, int]:
    """As many values from each place on as fit into 64 bits, as one number that sorts as they do, and how many."""
    if values.dtype.itemsize <= 2:
        # What np.unique gives, without a sort.
        present = np.zeros(1 << (8 * values.dtype.itemsize), bool)
        present[values] = True
        distinct, codes = np.flatnonzero(present), (np.cumsum(present) - 1)[values]
    else:
        distinct, codes = np.unique(values, return_inverse=True)
    bits = max(len(distinct).bit_length(), 1)
    count = 64 // bits
    # 0 stands for what lies beyond the end.
    codes = np.concatenate([codes.astype(np.uint64) + np.uint64(1), np.zeros(count, np.uint64)])
    keys = np.zeros(len(values), np.uint64)
    for further in range(count):
        keys <<= np.uint64(bits)
        keys |= codes[further : further + len(values)]
    return keys, count


def _groups(keys: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places whose sorted key is not theirs alone, and for all places the first place with their key, as their rank."""
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    alone = new.copy()
    alone[:-1] &= new[1:]
    return places[~alone], places[new][np.cumsum(new) - 1] if len(keys) else places


def agree(values: np.ndarray, one: np.ndarray, other: np.ndarray, length: int) -> np.ndarray:
    """Whether `length` values from each place in `one` equal those from the place in `other`, bool[places].

    All must lie within `values`. Pairs that differ early cost little.
    """
    steps = range(length)
    if len(one) and values.dtype == np.uint8 and length >= 8:
        # Bytes are compared eight at a time, the last of them perhaps twice.
        values = np.ndarray(len(values) - 7, "<u8", np.ascontiguousarray(values), strides=(1,))
        steps = [*range(0, length - 7, 8), length - 8]
    same = np.zeros(len(one), bool)
    left = np.arange(len(one))
    for further in steps:
        left = left[values[one[left] + further] == values[other[left] + further]]
        if not len(left):
            break
    same[left] = True
    return same


def equal_windows(values: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Groups of equal windows of `length` values among those that begin at `starts` (distinct).

    Returns the rows of `starts` that are in a group of two or more, group by group, and the group of each.
    """
    row = np.full(len(values), -1, np.int64)
    row[starts] = np.arange(len(starts))
    rows = row[suffix_array(values, depth=length)]
    rows = rows[rows >= 0]
    same = agree(values, starts[rows[:-1]], starts[rows[1:]], length)
    group = np.concatenate([[0], np.cumsum(~same)]) if len(rows) else np.zeros(0, np.int64)
    shared = np.zeros(len(rows), bool)
    shared[1:] |= same
    shared[:-1] |= same
    return rows[shared], group[shared]


def repeats(documents: np.ndarray, starts: np.ndarray, groups: np.ndarray, length: int) -> np.ndarray:
    """Which windows are not the first of their group, by document and start; but one that overlaps the first is not
    a repeat (a line of dashes repeats nothing). Returns bool[windows]."""
    order = np.lexsort((starts, documents, groups))
    documents, starts, groups = documents[order], starts[order], groups[order]
    new = np.ones(len(order), bool)
    new[1:] = groups[1:] != groups[:-1]
    first = np.flatnonzero(new)[np.cumsum(new) - 1] if len(order) else order
    found = np.empty(len(order), bool)
    found[order] = (documents != documents[first]) | (starts - starts[first] >= length)
    return found


def united(documents: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of documents, sorted, those that touch or overlap made one."""
    order = np.lexsort((starts, documents))
    documents, starts, ends = documents[order], starts[order], ends[order]
    if not len(order):
        return documents, starts, ends
    # Ends are made to grow from document to document, so that one running maximum serves all.
    step = int(ends.max()) + 1
    reach = np.maximum.accumulate(ends + documents * step) - documents * step
    new = np.ones(len(order), bool)
    new[1:] = (documents[1:] != documents[:-1]) | (starts[1:] > reach[:-1])
    last = np.append(np.flatnonzero(new)[1:] - 1, len(order) - 1)
    return documents[new], starts[new], reach[last]


def repeated_spans(values: np.ndarray, offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """What occurs a second time in documents of bytes or tokens: runs of `length` values or more, first ones kept.

    `offsets` int64[documents + 1]. Returns int64 starts and ends in `values`; a run lies within one document. Needs
    all of `values` and its suffix array in memory; for more, see substrings.RepeatedSubstrings.
    """
    starts = np.arange(len(values) - length + 1) if len(values) >= length else np.zeros(0, np.int64)
    documents = np.searchsorted(offsets, starts, side="right") - 1
    inside = starts + length <= offsets[documents + 1]
    starts, documents = starts[inside], documents[inside]
    rows, groups = equal_windows(values, starts, length)
    found = rows[repeats(documents[rows], starts[rows], groups, length)]
    _, begins, ends = united(documents[found], starts[found], starts[found] + length)
    return begins, ends
