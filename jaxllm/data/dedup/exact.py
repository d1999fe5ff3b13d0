"""Exact duplicates of documents, and of paragraphs within and across documents, by 128-bit digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from jaxllm.data.dedup.clusters import check_rule, drops, grouped, priorities, refuse_twins
from jaxllm.data.dedup.cuts import Cuts
from jaxllm.data.dedup.words import MOST_BYTES, bytes_of, chunks, words_of

Same = Literal["bytes", "words"]


@dataclass(frozen=True)
class ExactDocuments:
    """Keeps one of the documents with the same text. A CrossStage."""

    same: Same = "bytes"
    """what must be equal: each byte of the text, or its words (case, punctuation and spacing make no difference); texts
    of more than 16 MiB are always compared by their bytes"""
    keep: str = "first"
    """which: "first" (the smallest id) or "score:FIELD" (a number in the metadata); "longest" with `same="words"`"""
    name: str = "exact documents"

    def __post_init__(self):
        _check_same(self.same)
        check_rule(self.keep)

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        data, offsets = bytes_of(batch.column("text"))
        key, check = _digests(data, offsets, self.same)
        return pa.table(
            {"key": key, "check": check, "id": batch.column("id"), "priority": priorities(batch, self.keep)}
        )

    def match(self, rows: pa.Table) -> pa.Table:
        """The ids of all documents but the best of each text."""
        rows = rows.sort_by([("priority", "descending"), ("id", "ascending")]).combine_chunks()
        rows, later = _repeats(rows)
        refuse_twins(rows["id"], rows["key"])
        return rows.select(["id"]).filter(pa.array(later))

    def resolve(self, matches: pa.Table) -> pa.Table:
        return drops(sorted(matches["id"].to_pylist()), "exact duplicate")


@dataclass(frozen=True)
class ExactParagraphs:
    """Keeps the first of equal paragraphs, by document id and place, and cuts the others. A CrossStage."""

    separator: str = r"\n+"
    """what lies between paragraphs, a regular expression; a paragraph goes together with the separator after it"""
    shortest: int = 40
    """bytes; shorter paragraphs are left alone, since headings and closing brackets repeat of themselves"""
    same: Same = "words"
    """what must be equal: each byte, or the words (case, punctuation and spacing make no difference)"""
    name: str = "repeated paragraphs"

    def __post_init__(self):
        _check_same(self.same)
        if self.shortest < 1:
            raise ValueError(f"shortest must be at least 1 byte, got {self.shortest}")
        try:
            pattern = re.compile(self.separator.encode())
        except re.error as error:
            raise ValueError(f"separator {self.separator!r} is no regular expression: {error}") from error
        if pattern.fullmatch(b""):
            raise ValueError(f"separator {self.separator!r} matches the empty string, so every character would be one")

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        data, offsets = bytes_of(batch.column("text"))
        documents, starts, cores, ends = self._paragraphs(data, offsets)
        pieces = [data[start:core] for start, core in zip(starts, cores, strict=True)]
        joined = np.concatenate([np.zeros(0, np.uint8), *pieces])
        key, check = _digests(joined, np.concatenate([[0], np.cumsum(cores - starts)]), self.same)
        return pa.table(
            {
                "key": key,
                "check": check,
                "id": batch.column("id").take(pa.array(documents)),
                "start": starts - offsets[documents],
                "end": ends - offsets[documents],
            }
        )

    def _paragraphs(self, data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of each paragraph its document, where it begins, where it ends, and where the separator after it ends."""
        pattern = re.compile(self.separator.encode())
        rows = []
        for document, (first, after) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
            text = data[first:after].tobytes()
            begin = 0
            for found in pattern.finditer(text):
                rows.append((document, first + begin, first + found.start(), first + found.end()))
                begin = found.end()
            rows.append((document, first + begin, after, after))
        table = np.array(rows, np.int64).reshape(-1, 4)
        return tuple(table[table[:, 2] - table[:, 1] >= self.shortest].T)

    def match(self, rows: pa.Table) -> pa.Table:
        rows = rows.sort_by([("id", "ascending"), ("start", "ascending")]).combine_chunks()
        rows, later = _repeats(rows)
        return rows.select(["id", "start", "end"]).filter(pa.array(later))

    def resolve(self, matches: pa.Table) -> Cuts:
        return Cuts(self.name, matches.sort_by([("id", "ascending"), ("start", "ascending")]))


def _check_same(same: str) -> None:
    if same not in ("bytes", "words"):
        raise ValueError(f"same must be 'bytes' or 'words', got {same!r}")


def _repeats(rows: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Rows whose digest occurs more than once, and which of them are not the first of theirs."""
    both = np.empty(len(rows), [("key", np.uint64), ("check", np.uint64)])
    both["key"], both["check"] = rows["key"].to_numpy(), rows["check"].to_numpy()
    chosen, _ = grouped(both["key"])
    # Where the upper halves of different digests are equal, the lower ones part them.
    chosen = chosen[np.lexsort((chosen, both["check"][chosen], both["key"][chosen]))]
    digests = both[chosen]
    later = np.zeros(len(chosen), bool)
    later[1:] = digests[1:] == digests[:-1]
    return rows.take(pa.array(chosen)), later


def _digests(data: np.ndarray, offsets: np.ndarray, same: Same) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of a 128-bit digest of each text; a text without words is compared by its bytes."""
    pieces: Sequence[bytes | memoryview] = [
        memoryview(data[start:end]) for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    if same == "words":
        pieces = [words or bytes(raw) for words, raw in zip(_word_hashes(data, offsets), pieces, strict=True)]
    joined = b"".join(hashlib.blake2b(piece, digest_size=16).digest() for piece in pieces)
    halves = np.frombuffer(joined, np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def _word_hashes(data: np.ndarray, offsets: np.ndarray) -> list[bytes]:
    """The 64-bit hashes of each text's words, as bytes; of a text too large for that, none."""
    found = []
    for first, after in chunks(offsets):
        if offsets[after] - offsets[first] > MOST_BYTES:
            found += [b""] * (after - first)
            continue
        words = words_of(data[offsets[first] : offsets[after]], offsets[first : after + 1] - offsets[first])
        found += [words.hashes[a:b].tobytes() for a, b in zip(words.offsets[:-1], words.offsets[1:], strict=True)]
    return found
