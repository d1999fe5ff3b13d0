"""Evaluation items in training documents: found by runs of 13 words and by windows that nearly say the same.

Runs of words are compared exactly, after case, punctuation and spacing are taken away (Brown et al. 2020, appendix C).
A window is compared by the Jaccard similarity of its word triples with those of the whole item, so that an item is
found with some of its words changed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from jaxllm.data.dedup.shingles import runs
from jaxllm.data.dedup.suffix_array import united
from jaxllm.data.dedup.words import Words, bytes_of, chunks, slices, words_of
from jaxllm.data.evaluation_sets import EvaluationSet, EvaluationText, evaluation_texts
from jaxllm.data.records import SCHEMA, texts_of
from jaxllm.data.stages import Outcome, judged

HITS = pa.schema(
    [
        ("id", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("kind", pa.string()),
        ("similarity", pa.float64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("before", pa.large_string()),
        ("found", pa.large_string()),
        ("after", pa.large_string()),
    ]
)
"""What was found where: `start` and `end` in UTF-8 bytes of the document, and the text itself with some around."""

_SHINGLE = 3
# A triple that is in more items than this ("which of the") does not make an item a candidate.
_COMMON = 20
# The filter before the search has so many places for each run of words, up to 2^26 (64 MB): one in 16 passes wrongly.
_PLACES = 16
# Parts of a huge document overlap by so many bytes; an item that is cut twice by their bounds would have to be longer.
_OVERLAP = 1 << 16


_Hit = tuple[int, int, int, int, str, float]
# Document, first byte, end, text of an evaluation set, kind, and similarity.


@dataclass(frozen=True)
class Decontamination:
    """Drops documents with evaluation items in them, or cuts the items out. A Stage."""

    sets: tuple[EvaluationSet, ...]
    words: int = 13
    """the run of words that counts as a hit"""
    shortest: int = 8
    """items with fewer words than `words` are looked for as a whole if they have at least so many, others never"""
    similarity: float = 0.5
    """Jaccard similarity from which a window is a hit, for items of at least `words` words; 0 looks for none"""
    action: Literal["drop", "cut"] = "drop"
    """drop the document, or cut the hit with `around` characters on both sides, as GPT-3's authors did: the pieces
    that are left become documents of their own, those shorter than `around` are gone, and so is a document that
    would become more than `most_pieces`"""
    around: int = 200
    most_pieces: int = 10
    name: str = "decontamination"

    def __post_init__(self):
        if not self.sets:
            raise ValueError("decontamination has no evaluation sets, so there is nothing to look for")
        if not 1 <= self.shortest <= self.words:
            raise ValueError(f"shortest must be between 1 and words ({self.words}), got {self.shortest}")
        if not 0 <= self.similarity <= 1:
            raise ValueError(f"similarity is a Jaccard similarity, between 0 and 1, got {self.similarity}")
        if self.action not in ("drop", "cut"):
            raise ValueError(f"action must be 'drop' or 'cut', got {self.action!r}")
        if self.around < 0 or self.most_pieces < 1:
            raise ValueError(
                f"around must not be negative and most_pieces at least 1, got {self.around} and {self.most_pieces}"
            )

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        """Counts documents by the benchmarks found in them, also several for one document."""
        hits = self.hits(batch)
        counts: dict[str, int] = {}
        for name in sorted({*zip(hits["id"].to_pylist(), hits["benchmark"].to_pylist(), strict=True)}):
            counts[f"documents with {name[1]}"] = counts.get(f"documents with {name[1]}", 0) + 1
        spans = _spans_by_id(hits)
        ids = batch.column("id").to_pylist()
        if self.action == "drop":
            reasons = [f"overlaps {spans[name][0][2]}" if name in spans else None for name in ids]
            outcome = judged(batch, self.name, reasons)
            return Outcome(outcome.kept, outcome.dropped, counts)
        return self._cut(batch, ids, spans, counts)

    def hits(self, batch: pa.RecordBatch) -> pa.Table:
        """Everything found in a batch, with the schema HITS, by document, place and item."""
        index = _index(self)
        data, offsets = bytes_of(batch.column("text"))
        found: list[_Hit] = []
        for first, bounds in slices(data, offsets, _OVERLAP):
            words = words_of(data[bounds[0] : bounds[-1]], bounds - bounds[0])
            for document, begin, end, *rest in (*index.exact(words), *index.similar(words, self.similarity)):
                found.append((first + document, begin + int(bounds[0]), end + int(bounds[0]), *rest))
        names, rows = batch.column("id").to_pylist(), []
        for document, begin, end, text, kind, similarity in _joined(found):
            low, high = int(offsets[document]), int(offsets[document + 1])
            around = [(max(begin - 80, low), begin), (begin, end), (end, min(end + 80, high))]
            quoted = [data[a:b].tobytes().decode(errors="ignore") for a, b in around]
            source = index.texts[text]
            columns = (
                names[document],
                source.benchmark,
                source.item,
                kind,
                similarity,
                begin - low,
                end - low,
                *quoted,
            )
            rows.append(dict(zip(HITS.names, columns, strict=True)))
        return pa.Table.from_pylist(rows, HITS)

    def _cut(self, batch: pa.RecordBatch, ids: list[str], spans: dict, counts: dict[str, int]) -> Outcome:
        texts = texts_of(batch)
        pieces = [
            self._pieces(text, spans[name]) if name in spans else [text] for name, text in zip(ids, texts, strict=True)
        ]
        reasons = [None if 1 <= len(one) <= self.most_pieces else "little left between hits" for one in pieces]
        outcome = judged(batch, self.name, reasons)
        pieces = [one for one, reason in zip(pieces, reasons, strict=True) if reason is None]
        which = np.repeat(np.arange(len(pieces)), [len(one) for one in pieces])
        kept = outcome.kept.take(pa.array(which, pa.int64()))
        kept_ids = [name for name, reason in zip(ids, reasons, strict=True) if reason is None]
        new_ids = [
            name if len(one) == 1 else f"{name}#{number}"
            for name, one in zip(kept_ids, pieces, strict=True)
            for number in range(1, len(one) + 1)
        ]
        columns = {"id": new_ids, "text": [piece for one in pieces for piece in one]}
        for column, values in columns.items():
            at = SCHEMA.get_field_index(column)
            kept = kept.set_column(at, SCHEMA.field(at), pa.array(values, SCHEMA.field(at).type))
        return Outcome(kept, outcome.dropped, counts)

    def _pieces(self, text: str, spans: Sequence[tuple[int, int, str]]) -> list[str]:
        data = text.encode()
        pieces, at = [], 0
        for start, end, _ in spans:
            # In characters, since in some scripts 200 bytes are hardly a sentence.
            begin, after = len(data[:start].decode(errors="ignore")), len(data[:end].decode(errors="ignore"))
            pieces.append(text[at : max(begin - self.around, at)])
            at = max(at, after + self.around)
        return [piece for piece in (*pieces, text[at:]) if piece.strip() and len(piece) >= self.around]


def _joined(found: list[_Hit]) -> list[_Hit]:
    """By document and place; of overlapping hits of one text one is made, of windows the most similar is taken.

    There are such where a huge document was looked at in overlapping parts.
    """
    joined: list[_Hit] = []
    for hit in sorted(found, key=lambda hit: (hit[0], hit[3], hit[4], hit[1], hit[2])):
        document, begin, end, text, kind, similarity = hit
        last = joined[-1] if joined else None
        if last is None or (document, text, kind) != (last[0], last[3], last[4]) or begin > last[2]:
            joined.append(hit)
        elif kind == "window":
            joined[-1] = max(last, hit, key=lambda one: one[5])
        else:
            joined[-1] = (document, last[1], max(end, last[2]), text, kind, similarity)
    return sorted(joined)


def _spans_by_id(hits: pa.Table) -> dict[str, list[tuple[int, int, str]]]:
    spans: dict[str, list[tuple[int, int, str]]] = {}
    columns = (hits[name].to_pylist() for name in ("id", "start", "end", "benchmark"))
    for name, start, end, benchmark in zip(*columns, strict=True):
        spans.setdefault(name, []).append((start, end, benchmark))
    return {name: sorted(one) for name, one in spans.items()}


def summary(hits: pa.Table, examples: int = 3) -> str:
    """A report in Markdown: of each benchmark the items and documents that were hit, with some of them quoted."""
    lines = ["| benchmark | items hit | documents | hits |", "|---|---|---|---|"]
    rows = hits.to_pylist()
    names = sorted({row["benchmark"] for row in rows})
    quotes = []
    for name in names:
        mine = [row for row in rows if row["benchmark"] == name]
        items, documents = ({row[key] for row in mine} for key in ("item", "id"))
        lines.append(f"| {name} | {len(items)} | {len(documents)} | {len(mine)} |")
        for row in mine[:examples]:
            quotes.append(
                f"- {name}, {row['item']} in {row['id']} ({row['kind']}, similarity {row['similarity']:.2f}):"
            )
            quoted = f"{row['before']}**{row['found']}**{row['after']}"
            quotes.append(f"  > {' '.join(quoted.split())}")
    return "\n".join([*lines, "", *quotes]) + "\n"


# The index


@functools.lru_cache(maxsize=4)
def _index(stage: Decontamination) -> Index:
    texts = [text for chosen in stage.sets for text in evaluation_texts(chosen)]
    return Index(texts, stage.words, stage.shortest)


@dataclass(frozen=True, eq=False)
class _Runs:
    """Sorted hashes of runs of words, and of each the text and the place in it that it comes from."""

    size: int
    hashes: np.ndarray
    owners: np.ndarray
    places: np.ndarray
    known: np.ndarray
    """bool[2^k]: whether any hash begins with these k bits"""

    @classmethod
    def of(cls, size: int, hashes: list[np.ndarray], owners: list[int], most: int | None = None) -> _Runs:
        """Hashes of each owner's runs in their order; what occurs more than `most` times is left out."""
        joined = np.concatenate([np.zeros(0, np.uint64), *hashes])
        owner = np.repeat(np.array(owners, np.int64), [len(one) for one in hashes])
        place = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(one)) for one in hashes)])
        order = np.argsort(joined, kind="stable")
        if most is not None and len(order):
            _, which, count = np.unique(joined[order], return_inverse=True, return_counts=True)
            order = order[count[which] <= most]
        joined = joined[order]
        known = np.zeros(1 << min((_PLACES * len(joined)).bit_length(), 26), bool)
        known[joined >> _shift(known)] = True
        return cls(size, joined, owner[order], place[order], known)

    def found_in(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a word at which a run begins and a row of this index."""
        hashes = runs(words.hashes, self.size)
        at = np.flatnonzero(self.known[hashes >> _shift(self.known)])
        document = np.searchsorted(words.offsets, at, side="right") - 1
        at = at[at + self.size <= words.offsets[document + 1]]
        first = np.searchsorted(self.hashes, hashes[at])
        count = np.searchsorted(self.hashes, hashes[at], side="right") - first
        rows = np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
        return np.repeat(at, count), rows


def _shift(known: np.ndarray) -> np.uint64:
    return np.uint64(64 - (len(known).bit_length() - 1))


class Index:
    """The words of evaluation texts, made to be found."""

    def __init__(self, texts: Sequence[EvaluationText], words: int, shortest: int):
        self.texts = texts
        hashes = _word_hashes([one.text for one in texts])
        self.lengths = np.array([len(one) for one in hashes], np.int64)
        self._exact = []
        for size in range(shortest, words + 1):
            owners = [row for row, one in enumerate(hashes) if len(one) == size or (size == words and len(one) > size)]
            if owners:
                self._exact.append(_Runs.of(size, [runs(hashes[row], size) for row in owners], owners))
        long = [row for row, one in enumerate(hashes) if len(one) >= words]
        self._triples = _Runs.of(_SHINGLE, [runs(hashes[row], _SHINGLE) for row in long], long, _COMMON)
        self._sets = {row: frozenset(runs(hashes[row], _SHINGLE).tolist()) for row in long}
        # Of each text the triples that can make a candidate of it.
        self._rare = np.bincount(self._triples.owners, minlength=len(texts))

    def exact(self, words: Words) -> list[_Hit]:
        """Every run; overlapping runs of one text made one."""
        found = []
        for index in self._exact:
            at, rows = index.found_in(words)
            document = np.searchsorted(words.offsets, at, side="right") - 1
            both = document * len(self.texts) + index.owners[rows]
            both, begin, end = united(both, words.starts[at], words.ends[at + index.size - 1])
            for pair, a, b in zip(both.tolist(), begin.tolist(), end.tolist(), strict=True):
                found.append(
                    (*divmod(pair, len(self.texts))[:1], a, b, pair % len(self.texts), f"{index.size}-gram", 1.0)
                )
        return found

    def similar(self, words: Words, similarity: float) -> list[_Hit]:
        """The same for windows as long as a text whose triples overlap with its own; the best window of each text."""
        if not similarity or not len(self._triples.hashes):
            return []
        at, rows = self._triples.found_in(words)
        owner = self._triples.owners[rows]
        document = np.searchsorted(words.offsets, at, side="right") - 1
        order = np.lexsort((at, owner, document))
        at, owner, document = at[order], owner[order], document[order]
        begin = at - self._triples.places[rows][order]
        # Those of one document and text that lie in a window from each on.
        step = len(words.hashes) + int(self.lengths.max()) + 1
        place = (document * len(self.texts) + owner) * step + at
        within = np.searchsorted(place, place + self.lengths[owner]) - np.arange(len(place))
        triples = runs(words.hashes, _SHINGLE)
        best: dict[tuple[int, int, int], tuple[float, int, int]] = {}
        for row in np.flatnonzero(within >= np.maximum(self._rare[owner] * similarity, 1)).tolist():
            text, one, first = int(owner[row]), int(document[row]), int(begin[row])
            first, after = max(first, words.offsets[one]), min(first + self.lengths[text], words.offsets[one + 1])
            window = set(triples[first : after - _SHINGLE + 1].tolist())
            shared = len(window & self._sets[text])
            jaccard = shared / (len(window) + len(self._sets[text]) - shared)
            key = (one, text, int(first) // (2 * int(self.lengths[text])))
            if jaccard >= similarity and jaccard > best.get(key, (0.0,))[0]:
                best[key] = (jaccard, int(words.starts[first]), int(words.ends[after - 1]))
        return [(one, a, b, text, "window", jaccard) for (one, text, _), (jaccard, a, b) in best.items()]


def _word_hashes(texts: Sequence[str]) -> list[np.ndarray]:
    data, offsets = bytes_of(pa.array(texts, pa.large_string()))
    found = []
    for first, after in chunks(offsets):
        words = words_of(data[offsets[first] : offsets[after]], offsets[first : after + 1] - offsets[first])
        found += np.split(words.hashes, words.offsets[1:-1])
    return found
