"""Packing: which pieces of which documents share a row.

A document of n token ids is trained as n + 1 (input, target) pairs: its ids with the end-of-text id before and after,
inputs all but the last, targets all but the first. A plan deals in ranges of these pairs, so no target can cross from
one document into another, and every pair of the corpus lies in exactly one row.
"""

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxllm.data.config import Packing
from jaxllm.data.token_source import TokenSource

# (ids of a piece [n + 1], the inputs and the last target; its document, its first pair) -> the ids to train on instead,
# not more of them. It must depend on nothing else, since a resumed run builds the row again.
Rewrite = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class PackingPlan:
    """Rows of `row_length` positions, each a run of pieces; a piece is a range of the pairs of one document.

    Row r holds the pieces `row_offsets[r] : row_offsets[r + 1]`, in this order, from its first position on; what they
    leave free at its end is padding. Piece p is the pairs `start[p] : start[p] + length[p]` of document `document[p]`.
    All arrays are int64; row_offsets has one entry more than there are rows.
    """

    row_length: int
    row_offsets: np.ndarray
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def num_pairs(self) -> int:
        return int(self.length.sum())

    @property
    def utilization(self) -> float:
        """The part of all positions that holds a pair rather than padding, in (0, 1]."""
        return self.num_pairs / (self.num_rows * self.row_length)

    def fingerprint(self) -> str:
        """SHA-256 of the plan, as hex: two equal fingerprints mean the same rows."""
        digest = hashlib.sha256(str(self.row_length).encode())
        for array in (self.row_offsets, self.document, self.start, self.length):
            digest.update(np.ascontiguousarray(array, dtype="<i8"))
        return digest.hexdigest()


def plan_packing(lengths: Sequence[int], row_length: int, *, packing: Packing, seed: int) -> PackingPlan:
    """The plan of a kind; see plan_best_fit, plan_first_fit and plan_concat."""
    match packing:
        case "best_fit":
            return plan_best_fit(lengths, row_length, seed)
        case "first_fit":
            return plan_first_fit(lengths, row_length, seed)
        case "concat":
            return plan_concat(lengths, row_length, seed)
        case _:
            raise ValueError(f'packing must be "best_fit", "first_fit" or "concat", got {packing!r}')


def plan_concat(lengths: Sequence[int], row_length: int, seed: int) -> PackingPlan:
    """Puts the documents end to end in an order drawn by the seed and cuts the line into rows of `row_length`.

    lengths: ids per document. Only the last row has padding, and a document is cut wherever a row ends.
    Raises ValueError for no documents, a negative length, or a row length below 1.
    """
    pairs = _pairs_of(lengths, row_length)
    order = shuffled(len(pairs), seed)
    ends = np.cumsum(pairs[order])
    total = int(ends[-1])
    # A piece begins wherever a document or a row begins.
    begins = np.union1d(np.concatenate([[0], ends[:-1]]), np.arange(0, total, row_length))
    place = np.searchsorted(ends, begins, side="right")
    row_offsets = np.searchsorted(begins, np.arange(0, total + row_length, row_length))
    return PackingPlan(
        row_length=row_length,
        row_offsets=row_offsets,
        document=order[place],
        start=begins - (ends - pairs[order])[place],
        length=np.diff(begins, append=total),
    )


def plan_best_fit(lengths: Sequence[int], row_length: int, seed: int) -> PackingPlan:
    """Packs the documents into few rows by best-fit decreasing; a document is cut only where it is longer than a row.

    lengths: ids per document. Documents of more than `row_length` pairs give full rows and one shorter rest. The
    pieces, from long to short, each go to the fullest row that has room for them. The seed draws the order among
    pieces of equal length and the order of the rows. Time grows as n log n in the number of documents.
    Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling".
    Raises ValueError for no documents, a negative length, or a row length below 1.
    """
    document, start, length = _cut(lengths, row_length)
    order = shuffled(len(document), seed)
    order = order[np.argsort(-length[order], kind="stable")]
    row_of = _best_fit(length[order], row_length)
    return _gathered(row_length, order, row_of, document, start, length, seed)


def plan_first_fit(lengths: Sequence[int], row_length: int, seed: int) -> PackingPlan:
    """Packs the documents in an order drawn by the seed, each piece into the first row that has room for it.

    Documents are cut as by plan_best_fit. Long and short ones come to share rows by chance, where best-fit decreasing
    fills up rows of the longest with the shortest; for that a few more rows stay partly empty.
    lengths: ids per document. Raises ValueError for no documents, a negative length, or a row length below 1.
    """
    document, start, length = _cut(lengths, row_length)
    order = shuffled(len(document), seed)
    return _gathered(row_length, order, _first_fit(length[order], row_length), document, start, length, seed)


def _cut(lengths: Sequence[int], row_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(document, start, length) of pieces of at most `row_length` pairs, as few as possible."""
    pairs = _pairs_of(lengths, row_length)
    pieces_of = -(-pairs // row_length)
    document = np.repeat(np.arange(len(pairs)), pieces_of)
    first = np.cumsum(pieces_of) - pieces_of
    start = (np.arange(len(document)) - first[document]) * row_length
    return document, start, np.minimum(row_length, pairs[document] - start)


def _gathered(
    row_length: int,
    order: np.ndarray,
    row_of: np.ndarray,
    document: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    seed: int,
) -> PackingPlan:
    """The plan in which piece order[i] is in row row_of[i], the rows themselves in an order drawn by the seed."""
    shuffled_rows = shuffled(int(row_of.max()) + 1, seed)
    row_of = shuffled_rows[row_of]
    by_row = np.argsort(row_of, kind="stable")
    order = order[by_row]
    row_offsets = np.searchsorted(row_of[by_row], np.arange(len(shuffled_rows) + 1))
    return PackingPlan(row_length, row_offsets, document[order], start[order], length[order])


def _first_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each size, in the given order: the first bin that has room.

    A tree over the bins holds the largest room below each node. Of two bins that were left half empty the second would
    have gone into the first, so fewer than 2 * sum / capacity + 1 bins are used.
    """
    leaves = 1 << (2 * int(sizes.sum()) // capacity + 1).bit_length()
    largest = [capacity] * (2 * leaves)
    bin_of = np.empty(len(sizes), dtype=np.int64)
    for item, size in enumerate(sizes.tolist()):
        node = 1
        while node < leaves:
            node *= 2
            if largest[node] < size:
                node += 1
        bin_of[item] = node - leaves
        largest[node] -= size
        while node > 1:
            node //= 2
            left, right = largest[2 * node], largest[2 * node + 1]
            room = left if left > right else right
            if largest[node] == room:
                break
            largest[node] = room
    return bin_of


def _first_fit_by_search(sizes: Sequence[int], capacity: int) -> list[int]:
    """The slow twin of _first_fit."""
    rooms: list[int] = []
    bin_of = []
    for size in sizes:
        chosen = next((index for index, room in enumerate(rooms) if room >= size), len(rooms))
        rooms += [capacity] if chosen == len(rooms) else []
        rooms[chosen] -= size
        bin_of.append(chosen)
    return bin_of


def _best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each size, in the given order: the fullest bin that still has room, else a new one.

    Bins with equal room are interchangeable, so it is enough to keep a sorted list of the rooms that occur.
    """
    bin_of = np.empty(len(sizes), dtype=np.int64)
    rooms: list[int] = []
    bins_with: dict[int, list[int]] = {}
    count = 0
    for item, size in enumerate(sizes.tolist()):
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            chosen, room = count, capacity
            count += 1
        else:
            room = rooms[at]
            chosen = bins_with[room].pop()
            if not bins_with[room]:
                del bins_with[room], rooms[at]
        bin_of[item] = chosen
        room -= size
        if room:
            if room not in bins_with:
                bisect.insort(rooms, room)
                bins_with[room] = []
            bins_with[room].append(chosen)
    return bin_of


def _best_fit_by_search(sizes: Sequence[int], capacity: int) -> list[int]:
    """The slow twin of _best_fit: looks at every bin for every size. Gives the rooms that are left, one per bin."""
    rooms: list[int] = []
    for size in sizes:
        fitting = [index for index, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= size
        else:
            rooms.append(capacity - size)
    return rooms


def pack_row(
    plan: PackingPlan, store: TokenSource, row: int, end_of_text: int, rewrite: Rewrite | None = None
) -> dict[str, np.ndarray]:
    """Builds one row of a batch; every array has shape [plan.row_length].

    tokens int32: inputs. targets int32: the token that follows each input. weights float32: 1 where the target counts,
    0 in padding. segment_ids int32: 1, 2, ... for the pieces of the row, 0 for padding. positions int32: from 0 in each
    piece. Padding has end_of_text as input and target.
    rewrite: what else is done to each piece, see there.
    Raises IndexError for a row that the plan does not have.
    """
    if not 0 <= row < plan.num_rows:
        raise IndexError(f"the plan has rows 0 .. {plan.num_rows - 1}, asked for {row}")
    first, last = int(plan.row_offsets[row]), int(plan.row_offsets[row + 1])
    filled = empty_row(plan.row_length, end_of_text)
    at = 0
    for number, piece in enumerate(range(first, last), start=1):
        document, start, count = int(plan.document[piece]), int(plan.start[piece]), int(plan.length[piece])
        # Pair i of a document takes its input from id i - 1 and its target from id i; past either end is end_of_text.
        ids = store.read(document, max(start - 1, 0), start + count)
        line = np.full(count + 1, end_of_text, np.int32)
        begin = 1 if start == 0 else 0
        line[begin : begin + len(ids)] = ids
        if rewrite is not None:
            line = rewrite(line, document, start)
            count = len(line) - 1
        used = slice(at, at + count)
        filled["tokens"][used], filled["targets"][used] = line[:-1], line[1:]
        filled["segment_ids"][used] = number
        filled["positions"][used] = np.arange(count)
        at += count
    filled["weights"][:at] = 1
    return filled


def empty_row(row_length: int, end_of_text: int) -> dict[str, np.ndarray]:
    """A row of nothing but padding, with the arrays that pack_row gives."""
    return {
        "tokens": np.full(row_length, end_of_text, dtype=np.int32),
        "targets": np.full(row_length, end_of_text, dtype=np.int32),
        "weights": np.zeros(row_length, dtype=np.float32),
        "segment_ids": np.zeros(row_length, dtype=np.int32),
        "positions": np.zeros(row_length, dtype=np.int32),
    }


def _pairs_of(lengths: Sequence[int], row_length: int) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    if row_length < 1:
        raise ValueError(f"a row must have at least 1 position, got row_length={row_length}")
    if lengths.ndim != 1 or not len(lengths):
        raise ValueError(f"there are no documents to pack: expected a list of lengths, got shape {lengths.shape}")
    if lengths.min() < 0:
        raise ValueError(f"document {int(lengths.argmin())} has the negative length {int(lengths.min())}")
    return lengths + 1


def shuffled(count: int, seed: int) -> np.ndarray:
    """A permutation of 0 .. count - 1 that depends on the seed alone.

    Sorts by the SplitMix64 hash of each number (Steele, Lea and Flood 2014), because NumPy does not promise that its
    generators give the same numbers in its next release, and a resumed run needs the same rows.
    """
    salt = _splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    return np.argsort(_splitmix64(np.arange(count, dtype=np.uint64) ^ salt), kind="stable")


def _splitmix64(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
