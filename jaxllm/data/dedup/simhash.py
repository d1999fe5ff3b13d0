"""Near duplicates by SimHash: one 64-bit fingerprint a document, whose distance in bits is that of the shingles."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import comb

import numpy as np
import pyarrow as pa

from jaxllm.data.dedup.clusters import (
    PAIRS,
    check_rule,
    dropped_of,
    grouped,
    pairs_with_leaders,
    priorities,
    refuse_twins,
)
from jaxllm.data.dedup.shingles import Shingling, shingles_of
from jaxllm.data.dedup.words import bytes_of, chunks, mixed


@dataclass(frozen=True)
class SimHash:
    """Drops all but one of each cluster of documents whose fingerprints differ in at most `distance` bits.

    Of `blocks` blocks of the fingerprint, `distance` different bits leave `blocks - distance` untouched: documents
    that agree in those, for any choice of them, meet (Manku et al. 2007). More blocks make longer keys, so fewer
    documents that meet for nothing, and comb(blocks, distance) rows a document. A CrossStage.
    """

    distance: int = 3
    """bits in which duplicates may differ"""
    blocks: int = 6
    shingling: Shingling = Shingling(size=2)
    keep: str = "first"
    name: str = "simhash"

    def __post_init__(self):
        if not 0 <= self.distance < self.blocks <= 64:
            raise ValueError(
                f"distance must be less than blocks, and blocks at most 64, got {self.distance} and {self.blocks}"
            )
        if comb(self.blocks, self.distance) > 1000:
            raise ValueError(
                f"{self.blocks} blocks for distance {self.distance} make {comb(self.blocks, self.distance)} rows of "
                "each document; choose fewer blocks"
            )
        check_rule(self.keep)

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        fingerprint, told = fingerprints(batch.column("text"), self.shingling)
        masks = self._masks()
        documents = np.repeat(np.flatnonzero(told), len(masks))
        nth = np.tile(np.arange(len(masks)), told.sum())
        fingerprint = fingerprint[documents]
        return pa.table(
            {
                # With the number of the choice, so that blocks of zeros don't make all choices one key.
                "key": mixed((fingerprint & masks[nth]) ^ mixed(nth.astype(np.uint64) + np.uint64(1))),
                "fingerprint": fingerprint,
                "id": batch.column("id").take(pa.array(documents)),
                "priority": priorities(batch, self.keep)[documents],
            }
        )

    def _masks(self) -> np.ndarray:
        bounds = np.linspace(0, 64, self.blocks + 1).astype(int)
        blocks = [sum(1 << bit for bit in range(a, b)) for a, b in itertools.pairwise(bounds)]
        kept = itertools.combinations(blocks, self.blocks - self.distance)
        return np.array([sum(one) for one in kept], np.uint64)

    def match(self, rows: pa.Table) -> pa.Table:
        rows = rows.sort_by("id").combine_chunks()
        chosen, starts = grouped(rows["key"].to_numpy())
        rows = rows.take(pa.array(chosen))
        refuse_twins(rows["id"], rows["key"])
        fingerprint = rows["fingerprint"].to_numpy()

        def alike(members: np.ndarray, leaders: np.ndarray) -> np.ndarray:
            return np.bitwise_count(fingerprint[members] ^ fingerprint[leaders]) <= self.distance

        leaders, members = pairs_with_leaders(starts, len(rows), alike)
        one, other = rows.take(pa.array(leaders)), rows.take(pa.array(members))
        return pa.table([one["id"], one["priority"], other["id"], other["priority"]], schema=PAIRS)

    def resolve(self, matches: pa.Table) -> pa.Table:
        return dropped_of(matches, "near duplicate")


def fingerprints(texts: pa.Array, shingling: Shingling) -> tuple[np.ndarray, np.ndarray]:
    """uint64[documents], and bool[documents]: whether there is any shingle to make it of (Charikar 2002).

    Bit k is set where more shingles of the document, each as often as it occurs, have it set than not.
    """
    data, offsets = bytes_of(texts)
    found, told = np.zeros(len(texts), np.uint64), np.zeros(len(texts), bool)
    for first, after in chunks(offsets):
        piece = data[offsets[first] : offsets[after]]
        shingles, bounds = shingles_of(piece, offsets[first : after + 1] - offsets[first], shingling)
        filled = np.flatnonzero(np.diff(bounds))
        if not len(filled):
            continue
        counts = np.diff(bounds)[filled]
        for bit in range(64):
            ones = np.add.reduceat((shingles >> np.uint64(bit)) & np.uint64(1), bounds[filled]).astype(np.int64)
            found[first + filled] |= (2 * ones > counts).astype(np.uint64) << np.uint64(bit)
        told[first + filled] = True
    return found, told
