"""Shingles: each run of n words (or characters) of a document as one 64-bit number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxllm.data.dedup.words import MOST_BYTES, Unit, Words, character_start, mixed, words_of

# Runs of words are told apart by their order: each word is multiplied by another power of this odd number.
_ORDER = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Shingling:
    """How a document becomes a set."""

    size: int = 5
    """words (or characters) in a run; a document with fewer has one shingle, all of it"""
    unit: Unit = "words"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"a shingle must have at least 1 word or character, got size {self.size}")
        if self.unit not in ("words", "characters"):
            raise ValueError(f"unit must be 'words' or 'characters', got {self.unit!r}")


def shingles_of(data: np.ndarray, offsets: np.ndarray, shingling: Shingling) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of documents, uint64[shingles], in the order of the text, and int64[documents + 1] offsets.

    `data` and `offsets` as from `words.bytes_of`, some hundred kilobytes of them (`words.chunks`). A document without
    words has no shingles. Of a document larger than 16 MiB the beginning stands for the whole.
    """
    data, offsets = _beginnings(data, offsets)
    return shingles_of_words(words_of(data, offsets, shingling.unit), shingling.size)


def shingles_of_words(words: Words, size: int) -> tuple[np.ndarray, np.ndarray]:
    """As `shingles_of`, of words already found."""
    lengths = np.diff(words.offsets)
    counts = np.where(lengths >= size, lengths - size + 1, np.minimum(lengths, 1))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    hashes = runs(words.hashes, size)
    firsts = np.repeat(words.offsets[:-1] - offsets[:-1], counts) + np.arange(offsets[-1])
    short = np.flatnonzero((lengths > 0) & (lengths < size))
    # The run at the end of the batch does not fit, but only short documents begin there.
    shingles = hashes[np.minimum(firsts, max(len(hashes) - 1, 0))] if len(hashes) else np.zeros(len(firsts), np.uint64)
    for document in short:
        whole = words.hashes[words.offsets[document] : words.offsets[document + 1]]
        shingles[offsets[document]] = runs(whole, len(whole))[0]
    return shingles, offsets


def runs(hashes: np.ndarray, size: int) -> np.ndarray:
    """The hash of each run of `size` words, uint64[words - size + 1] (none if there are fewer words)."""
    count = len(hashes) - size + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total = hashes[:count].copy()
    for further in range(1, size):
        total *= _ORDER
        total += hashes[further : further + count]
    return mixed(total)


def _beginnings(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)
    if not len(lengths) or lengths.max() <= MOST_BYTES:
        return data, offsets
    kept = []
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        kept.append(data[start : character_start(data, min(end, start + MOST_BYTES))])
    return np.concatenate(kept), np.concatenate([[0], np.cumsum([len(one) for one in kept])])
