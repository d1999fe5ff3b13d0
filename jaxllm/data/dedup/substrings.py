"""Passages that occur in a corpus more than once, of any length above a threshold, cut everywhere but at the first.

After Lee et al. 2022 ("Deduplicating training data makes language models better"), who build one suffix array of a
whole corpus. Here the corpus is first dealt into partitions such that equal windows of N bytes always meet in one, and
each partition is sorted by itself: of all the 32-byte strings within a window, the one with the smallest hash is the
window's key (winnowing: Schleimer et al. 2003). Neighbouring windows mostly have the same key, and go together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jaxllm.data.dedup.clusters import grouped
from jaxllm.data.dedup.cuts import Cuts
from jaxllm.data.dedup.suffix_array import equal_windows, repeats, united
from jaxllm.data.dedup.words import bytes_of, mixed, slices

# What keys are made of. Shorter strings would bring more of what does not match into one partition.
GRAM = 32


@dataclass(frozen=True)
class RepeatedSubstrings:
    """Cuts each repeat of `length` bytes or more but the first, by document id and place. A CrossStage.

    Exact: with every window of `length` bytes that occurs again (without overlapping the first) goes every byte of it.
    About 3.5 times the text is sent to the partitions; only what shares its key with something else is sorted.
    """

    length: int = 200
    """bytes; Lee et al. use 50 tokens, which in English are about as much"""
    name: str = "repeated passages"

    def __post_init__(self):
        if self.length < GRAM:
            raise ValueError(f"length must be at least {GRAM} bytes, got {self.length}")

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        """Rows of `key`, `id`, `start` in the document, and `text`: all windows of that key, end to end."""
        data, offsets = bytes_of(batch.column("text"))
        parts = [(np.zeros(0, np.uint64), *[np.zeros(0, np.int64)] * 3)]
        for first, bounds in slices(data, offsets, self.length - 1):
            key, document, start, end = self._runs(data[bounds[0] : bounds[-1]], bounds - bounds[0])
            parts.append((key, document + first, start + bounds[0], end + bounds[0]))
        key, document, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
        whole = memoryview(data)
        pieces = pa.array([whole[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)], pa.large_binary())
        ids = batch.column("id").take(pa.array(document))
        return pa.table({"key": key, "id": ids, "start": start - offsets[document], "text": pieces})

    def _runs(self, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
        """Runs of windows with one key: key, document, first byte, and the end of the last window."""
        lowest = sliding_minimum(_hashes(data, GRAM), self.length - GRAM + 1)
        starts = np.arange(len(lowest))
        document = np.searchsorted(offsets, starts, side="right") - 1
        inside = np.flatnonzero(starts + self.length <= offsets[document + 1])
        key, document = lowest[inside], document[inside]
        new = np.ones(len(inside), bool)
        new[1:] = (key[1:] != key[:-1]) | (document[1:] != document[:-1])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(inside))[: len(first)] - 1
        return key[first], document[first], inside[first], inside[last] + self.length

    def match(self, rows: pa.Table) -> pa.Table:
        """Spans to cut, as `id`, `start`, `end`."""
        rows = self._with_repeats(self._with_shared_key(rows.combine_chunks()))
        data, piece, place = self._windows(rows)
        codes, names = _codes(rows["id"].combine_chunks())
        chosen, groups = equal_windows(data, place, self.length)
        _, bounds = _binary(rows["text"])
        start = (rows["start"].to_numpy()[piece] + place - bounds[piece])[chosen]
        document = codes[piece[chosen]]
        again = repeats(document, start, groups, self.length)
        return _table(names, *united(document[again], start[again], start[again] + self.length))

    def _windows(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The text of all rows, and of each window in it the row and the first byte."""
        data, bounds = _binary(rows["text"])
        windows = np.diff(bounds) - self.length + 1
        piece = np.repeat(np.arange(len(windows)), windows)
        return data, piece, np.arange(len(piece)) + (bounds[:-1] - (np.cumsum(windows) - windows))[piece]

    def _with_shared_key(self, rows: pa.Table) -> pa.Table:
        """Runs that share their key, and runs so long that the string of their key must be in them twice."""
        _, bounds = _binary(rows["text"])
        wanted = np.diff(bounds) > 2 * self.length - GRAM
        shared, _ = grouped(rows["key"].to_numpy())
        wanted[shared] = True
        return rows.filter(pa.array(wanted))

    def _with_repeats(self, rows: pa.Table) -> pa.Table:
        """Runs with a window whose hash occurs twice: what is left is sorted, which takes much longer."""
        data, piece, place = self._windows(rows)
        shared, _ = grouped(_hashes(data, self.length)[place])
        return rows.take(pa.array(np.unique(piece[shared])))

    def resolve(self, matches: pa.Table) -> Cuts:
        codes, names = _codes(matches["id"].combine_chunks())
        return Cuts(self.name, _table(names, *united(codes, matches["start"].to_numpy(), matches["end"].to_numpy())))


def sliding_minimum(values: np.ndarray, width: int) -> np.ndarray:
    """The smallest of each `width` neighbours, [n - width + 1], in log2(width) passes."""
    if len(values) < width:
        return values[:0]
    lowest, covered = values, 1
    while covered < width:
        step = min(covered, width - covered)
        lowest = np.minimum(lowest[:-step], lowest[step:])
        covered += step
    return lowest


def _hashes(data: np.ndarray, width: int) -> np.ndarray:
    """The hash of the `width` bytes (8 or more) from each place on, uint64[n - width + 1]."""
    if len(data) < width:
        return np.zeros(0, np.uint64)
    hashes = np.ndarray(len(data) - 7, "<u8", np.ascontiguousarray(data), strides=(1,)).astype(np.uint64)
    covered = 8
    while covered < width:
        step = min(covered, width - covered)
        hashes = mixed(hashes[:-step] * np.uint64(3) + hashes[step:])
        covered += step
    return hashes


def _binary(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    return bytes_of(column.combine_chunks().view(pa.large_string()))


def _codes(ids: pa.StringArray) -> tuple[np.ndarray, list[str]]:
    """Each id as its place in the sorted list of distinct ids, and that list."""
    encoded = ids.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return place[encoded.indices.to_numpy(zero_copy_only=False)], [names[row] for row in order]


def _table(names: list[str], document: np.ndarray, start: np.ndarray, end: np.ndarray) -> pa.Table:
    ids = pa.array(names, pa.string()).take(pa.array(document, pa.int64()))
    return pa.table({"id": ids, "start": pa.array(start, pa.int64()), "end": pa.array(end, pa.int64())})
