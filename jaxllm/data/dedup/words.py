"""Texts as 64-bit hashes of their words or characters, found and hashed for a whole batch at once, without a loop.

What counts as the same: case, punctuation and spacing make no difference ("Don’t  stop!" has the words "don", "t",
"stop"). Letters, digits and marks of any script are kept. In scripts that are written without spaces (Chinese,
Japanese, Thai and others) each character is a word.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

Unit = Literal["words", "characters"]

# Text is worked on in pieces of about this size, so that what is made of a piece stays in the processor's cache.
CHUNK_BYTES = 1 << 17

# No more of one document is looked at: a single line of gigabytes must not take the machine down.
MOST_BYTES = 1 << 24

# What has no word boundary for so many bytes (base64, minified code) is cut into words of so many bytes.
LONGEST_WORD = 32

_SPACE = 0x20
_NOT_A_WORD, _PART_OF_WORD, _WORD_OF_ITS_OWN = range(3)

# Planes 0 and 1 of Unicode; above are rare Chinese characters, which are words of their own.
_CODE_POINTS = 0x20000
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # radicals, kana, bopomofo
    (0x31A0, 0x9FFF),  # Chinese and Japanese
    (0xF900, 0xFAFF),
)

# Odd constants with well-spread bits: 2^64 divided by the golden ratio, and those of MurmurHash3's finalizer.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_HALF = np.uint64(33)


@dataclass(frozen=True, eq=False)
class Words:
    """The words of some documents, one after the other; those of document i are [offsets[i] : offsets[i + 1]]."""

    hashes: np.ndarray
    """uint64[words]"""
    starts: np.ndarray
    """int64[words], the byte at which a word begins, counted from the first document's first byte"""
    ends: np.ndarray
    offsets: np.ndarray
    """int64[documents + 1], in words"""


def mixed(values: np.ndarray) -> np.ndarray:
    """A fixed permutation of the 64-bit numbers after which any of their bits depends on all; works in place."""
    for factor in (_MIX_1, _MIX_2):
        values ^= values >> _HALF
        values *= factor
    values ^= values >> _HALF
    return values


def bytes_of(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 of a column of strings as uint8[bytes], a view, and int64[documents + 1], where each begins in it.

    Raises ValueError for a null.
    """
    if texts.null_count:
        row = texts.is_null().to_pylist().index(True)
        raise ValueError(f"row {row} of the batch has no text (null): drop it, or give it the empty string")
    texts = texts.cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if not len(texts) or texts.buffers()[2] is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    data = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


def chunks(offsets: np.ndarray, num_bytes: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """Runs of documents (first, after the last) with at most `num_bytes` of text, or of one that is larger."""
    first = 0
    while first < len(offsets) - 1:
        after = int(np.searchsorted(offsets, offsets[first] + num_bytes, side="right")) - 1
        after = max(after, first + 1)
        yield first, after
        first = after


def slices(data: np.ndarray, offsets: np.ndarray, overlap: int, num_bytes: int = CHUNK_BYTES) -> Iterator[tuple]:
    """As `chunks`, but documents that are much larger come in parts that overlap by `overlap` bytes or a little more.

    Gives the first document and the bounds in `data` of it and those that follow, or the bounds of a part of it.
    """
    for first, after in chunks(offsets, num_bytes):
        begin, end = int(offsets[first]), int(offsets[after])
        if after - first > 1 or end - begin <= MOST_BYTES:
            yield first, offsets[first : after + 1]
            continue
        for at in range(begin, end, MOST_BYTES):
            # Either bound may move by the three further bytes of a character.
            bounds = [at, min(at + MOST_BYTES + overlap + 3, end)]
            yield first, np.array([character_start(data, bound) for bound in bounds])


def character_start(data: np.ndarray, at: int) -> int:
    """The last place up to `at` where a character of UTF-8 begins, or the end of the data."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def words_of(data: np.ndarray, offsets: np.ndarray, unit: Unit = "words") -> Words:
    """Finds and hashes the words (or characters, runs of spaces and punctuation as one) of documents.

    `data` and `offsets` as from `bytes_of`. Give it a few hundred kilobytes at a time (`chunks`): it needs several
    times the size of the text.
    """
    # A word is read eight bytes at a time, the last of which may lie beyond the text.
    text = np.frombuffer(bytearray(data.tobytes()).translate(_ascii_table()) + bytes(8), np.uint8)
    size = len(data)
    cut = np.zeros(size + 1, bool)
    cut[offsets] = True
    _fold_beyond_ascii(text[:size], cut)
    inside = np.zeros(size + 2, bool)
    np.not_equal(text[:size], _SPACE, out=inside[1:-1])
    before, after = inside[:-1], inside[1:]
    if unit == "characters":
        gap = before & ~after
        gap[offsets] = False
        lead = after[:-1] & ((text[:size] & 0xC0) != 0x80)
        starts = np.flatnonzero(lead | gap[:-1])
        ends = starts + _length_of_character(text[starts])
    else:
        starts = np.flatnonzero(after & (~before | cut))
        ends = np.flatnonzero(before & (~after | cut))
        starts, ends = _cut_long_words(starts, ends)
    return Words(_hashes(text, starts, ends), starts, ends, np.searchsorted(starts, offsets))


def _hashes(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    eights = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))
    hashes = _eight_bytes(eights, starts, ends - starts)
    hashes *= _GOLDEN
    rest = np.flatnonzero(ends - starts > 8)
    at = 8
    while len(rest):
        more = hashes[rest]
        more ^= more >> _HALF
        more += _eight_bytes(eights, starts[rest] + at, ends[rest] - starts[rest] - at)
        more *= _GOLDEN
        hashes[rest] = more
        at += 8
        rest = rest[ends[rest] - starts[rest] > at]
    return mixed(hashes)


def _eight_bytes(eights: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Up to eight bytes from each start as one number, what lies beyond the length shifted out."""
    beyond = np.maximum(8 - lengths, 0).astype(np.uint64)
    return eights[starts] << (beyond << np.uint64(3))


def _cut_long_words(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pieces = (ends - starts + LONGEST_WORD - 1) // LONGEST_WORD
    if len(pieces) == 0 or pieces.max() <= 1:
        return starts, ends
    which = np.repeat(np.arange(len(starts)), pieces)
    nth = np.arange(len(which)) - (np.cumsum(pieces) - pieces)[which]
    new_starts = starts[which] + nth * LONGEST_WORD
    return new_starts, np.minimum(new_starts + LONGEST_WORD, ends[which])


def _length_of_character(lead: np.ndarray) -> np.ndarray:
    return 1 + (lead >= 0xC0).astype(np.int64) + (lead >= 0xE0) + (lead >= 0xF0)


def _fold_beyond_ascii(text: np.ndarray, cut: np.ndarray) -> None:
    """Lowers and blanks characters of two to four bytes in place, and cuts around those that are words themselves."""
    leads = np.flatnonzero(text >= 0xC0)
    if not len(leads):
        return
    lengths = _length_of_character(text[leads])
    points = np.zeros(len(leads), np.int64)
    for length, payload in ((2, 0x1F), (3, 0x0F), (4, 0x07)):
        of_length = np.flatnonzero(lengths == length)
        at = leads[of_length]
        point = (text[at] & payload).astype(np.int64)
        for further in range(1, length):
            point = (point << 6) | (text[at + further] & 0x3F)
        points[of_length] = point
    lower, kinds = _unicode_tables()
    known = np.minimum(points, _CODE_POINTS - 1)
    lowered = np.where(points < _CODE_POINTS, lower[known], points)
    kind = np.where(points < _CODE_POINTS, kinds[known], _WORD_OF_ITS_OWN)
    _write(text, leads, lengths, lowered, np.flatnonzero(lowered != points))
    blank, alone = np.flatnonzero(kind == _NOT_A_WORD), np.flatnonzero(kind == _WORD_OF_ITS_OWN)
    for further in range(4):
        text[leads[blank[lengths[blank] > further]] + further] = _SPACE
    cut[leads[alone]] = True
    cut[leads[alone] + lengths[alone]] = True


def _write(text: np.ndarray, leads: np.ndarray, lengths: np.ndarray, points: np.ndarray, which: np.ndarray) -> None:
    """Puts the UTF-8 of other characters of the same lengths in the place of some characters."""
    for length, mark in ((2, 0xC0), (3, 0xE0), (4, 0xF0)):
        chosen = which[lengths[which] == length]
        at, point = leads[chosen], points[chosen]
        text[at] = mark | (point >> (6 * (length - 1)))
        for further in range(1, length):
            text[at + further] = 0x80 | ((point >> (6 * (length - 1 - further))) & 0x3F)


@functools.cache
def _ascii_table() -> bytes:
    """What each byte becomes: A to Z lower case, what is no letter or digit a space, beyond ASCII itself."""
    ascii_part = (chr(byte).lower() if chr(byte).isalnum() else " " for byte in range(128))
    return "".join(ascii_part).encode() + bytes(range(128, 256))


@functools.cache
def _unicode_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each code point its lower case, where that has as many bytes, and what it is to a word."""
    lower = np.arange(_CODE_POINTS)
    kinds = np.zeros(_CODE_POINTS, np.int8)
    for point in range(_CODE_POINTS):
        character = chr(point)
        if unicodedata.category(character)[0] in "LMN":
            kinds[point] = _PART_OF_WORD
            small = character.lower()
            if len(small) == 1 and small != character and len(small.encode()) == len(character.encode()):
                lower[point] = ord(small)
    for first, last in _WITHOUT_SPACES:
        kinds[first : last + 1][kinds[first : last + 1] == _PART_OF_WORD] = _WORD_OF_ITS_OWN
    return lower, kinds
