"""Near duplicates: documents whose sets of shingles overlap by more than a threshold, found with MinHash and LSH.

A set's signature is, for each of b * r permutations of the 64-bit numbers, the smallest number that a shingle of the
set is sent to. Two sets have the same smallest one with a probability of their Jaccard similarity s (Broder 1997), so
that all r of a band agree with s^r, and at least one of b bands with 1 - (1 - s^r)^b. Documents that share a band are
candidates; a second look at their texts keeps the pairs whose true similarity reaches the threshold.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

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

# A group of candidates is compared in slices of so many documents, each slice with the group's leader, so that the
# memory for one call of `match` has a bound whatever the corpus repeats.
LARGEST_GROUP = 4096


@dataclass(frozen=True)
class MinHash:
    """Drops all but one of each cluster of near duplicates. A CrossStage in two rounds: candidates, then the check.

    Which pairs become candidates is decided by the bands (`candidate_probability`), which candidates are duplicates by
    the threshold alone. Clusters are connected components of the pairs that were found.
    """

    bands: int = 14
    rows: int = 8
    """permutations in a band"""
    shingling: Shingling = Shingling()
    threshold: float = 0.7
    """Jaccard similarity from which two documents count as duplicates; 0 takes every candidate"""
    keep: str = "first"
    """which of a cluster: "first" (the smallest id), "longest" or "score:FIELD" (a number in the metadata)"""
    seed: int = 1
    name: str = "minhash"

    def __post_init__(self):
        if self.bands < 1 or self.rows < 1:
            raise ValueError(f"bands and rows must be at least 1, got {self.bands} and {self.rows}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a Jaccard similarity, between 0 and 1, got {self.threshold}")
        check_rule(self.keep)

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        """A row for each document and band: `key`, the band's hash, and `document`, a hash of the id."""
        keys = band_keys(
            signatures(batch.column("text"), self.shingling, self.bands * self.rows, self.seed), self.bands
        )
        told = keys.any(axis=1)
        documents = np.repeat(digests(batch.column("id").to_pylist())[told], self.bands)
        return pa.table({"key": keys[told].reshape(-1), "document": documents})

    def match(self, rows: pa.Table) -> pa.Table:
        """Of each bucket of two or more, its members with the one of smallest hash: m - 1 pairs of m documents."""
        documents = rows["document"].to_numpy()
        by_document = np.argsort(documents, kind="stable")
        chosen, starts = grouped(rows["key"].to_numpy()[by_document])
        members = documents[by_document][chosen]
        leaders = np.repeat(members[starts], np.diff(np.append(starts, len(members))))
        return _unique_pairs(leaders, members)

    def resolve(self, matches: pa.Table) -> SameShingles:
        """What is to be looked at again, as the stage that does it."""
        pairs = _unique_pairs(matches["leader"].to_numpy(), matches["document"].to_numpy())
        leaders, members = pairs["leader"].to_numpy(), pairs["document"].to_numpy()
        nth = np.arange(len(leaders)) - np.searchsorted(leaders, leaders)
        # The leader itself is in each slice of its group.
        groups = mixed(leaders + (nth // LARGEST_GROUP).astype(np.uint64))
        alone, first = np.unique(groups, return_index=True)
        documents = np.concatenate([members, leaders[first]])
        groups = np.concatenate([groups, alone])
        leads = np.arange(len(groups)) >= len(members)
        order = np.argsort(documents, kind="stable")
        return SameShingles(documents[order], groups[order], leads[order], self)


@dataclass(frozen=True, eq=False)
class SameShingles:
    """The second round: the true Jaccard similarity of candidates, from their texts."""

    documents: np.ndarray
    """uint64[n], sorted: hashes of the ids of candidates, each as often as there are groups that it is in"""
    groups: np.ndarray
    """uint64[n], the group that each is compared in"""
    leads: np.ndarray
    """bool[n], whether the others of the group are compared with this one first"""
    settings: MinHash

    @property
    def name(self) -> str:
        return self.settings.name

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        """A row for each candidate and group: `key`, id, priority, whether it leads, and its shingles' lower halves."""
        ids = digests(batch.column("id").to_pylist())
        first, after = np.searchsorted(self.documents, ids), np.searchsorted(self.documents, ids, side="right")
        asked = np.flatnonzero(after > first)
        chosen = batch.take(pa.array(asked))
        sets, offsets = _sets_of(chosen.column("text"), self.settings.shingling)
        shingles = pa.LargeListArray.from_arrays(offsets, sets)
        times = (after - first)[asked]
        which = np.repeat(np.arange(len(asked)), times)
        at = np.arange(len(which)) - np.repeat(np.cumsum(times) - times, times) + np.repeat(first[asked], times)
        return pa.table(
            {
                "key": self.groups[at],
                "id": chosen.column("id").take(pa.array(which)),
                "priority": priorities(chosen, self.settings.keep)[which],
                "leads": self.leads[at],
                "shingles": shingles.take(pa.array(which)),
            }
        )

    def match(self, rows: pa.Table) -> pa.Table:
        """Pairs of documents (clusters.PAIRS) at or above the threshold."""
        rows = rows.sort_by([("leads", "descending"), ("id", "ascending")]).combine_chunks()
        chosen, starts = grouped(rows["key"].to_numpy())
        rows = rows.take(pa.array(chosen))
        refuse_twins(rows["id"], rows["key"])
        alike = functools.partial(_at_least, rows["shingles"].combine_chunks(), self.settings.threshold)
        leaders, members = pairs_with_leaders(starts, len(rows), alike)
        one, other = rows.take(pa.array(leaders)), rows.take(pa.array(members))
        columns = [one["id"], one["priority"], other["id"], other["priority"]]
        return pa.table(columns, schema=PAIRS)

    def resolve(self, matches: pa.Table) -> pa.Table:
        return dropped_of(matches, "near duplicate")


def signatures(texts: pa.Array, shingling: Shingling, permutations: int, seed: int = 1) -> np.ndarray:
    """uint64[documents, permutations]; all ones for a document without words. Raises ValueError for a null."""
    data, offsets = bytes_of(texts)
    found = np.full((permutations, len(texts)), np.iinfo(np.uint64).max)
    factors = permutation_factors(permutations, seed)
    for first, after in chunks(offsets):
        piece = data[offsets[first] : offsets[after]]
        shingles, bounds = shingles_of(piece, offsets[first : after + 1] - offsets[first], shingling)
        filled = np.flatnonzero(np.diff(bounds))
        if len(filled):
            found[:, first + filled] = _minima(shingles, bounds[filled], factors)
    return np.ascontiguousarray(found.T)


def permutation_factors(permutations: int, seed: int) -> np.ndarray:
    """Odd numbers a: x -> a * x modulo 2^64 permutes the 64-bit numbers. Shingles are hashed well before, so the
    smallest product falls on each of a set with the same chance."""
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**64, permutations, np.uint64)
    return drawn | np.uint64(1)


def _minima(shingles: np.ndarray, starts: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The smallest a * x of each document under each permutation, uint64[permutations, documents]."""
    found = np.empty((len(factors), len(starts)), np.uint64)
    product = np.empty_like(shingles)
    for row, factor in enumerate(factors):
        np.multiply(shingles, factor, out=product)
        np.minimum.reduceat(product, starts, out=found[row])
    return found


def signatures_one_by_one(sets: Sequence[Sequence[int]], permutations: int, seed: int = 1) -> list[list[int]]:
    """The slow twin of the above, for sets of shingles."""
    factors = permutation_factors(permutations, seed).tolist()
    return [[min(factor * shingle % 2**64 for shingle in one) for factor in factors] for one in sets]


def band_keys(signature: np.ndarray, bands: int) -> np.ndarray:
    """One hash for each band of each document, uint64[documents, bands]; 0 for a document without words."""
    documents, permutations = signature.shape
    per_band = signature.reshape(documents, bands, permutations // bands)
    keys = np.zeros((documents, bands), np.uint64) + np.arange(bands, dtype=np.uint64)
    for row in range(per_band.shape[2]):
        keys = mixed(keys + per_band[:, :, row])
    keys[signature[:, 0] == np.iinfo(np.uint64).max] = 0
    return keys


def digests(names: Sequence[str]) -> np.ndarray:
    """A 64-bit hash of each name, uint64[names]."""
    joined = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(joined, np.uint64)


def candidate_probability(similarity: float, bands: int, rows: int) -> float:
    """The chance that two documents of this Jaccard similarity share a band: 1 - (1 - s^r)^b."""
    return 1 - (1 - similarity**rows) ** bands


def steepest_similarity(bands: int, rows: int) -> float:
    """About where that chance rises fastest, (1/b)^(1/r): 0.707 for 16 bands of 8, 0.719 for 14."""
    return (1 / bands) ** (1 / rows)


def jaccard(one: set, other: set) -> float:
    """|A and B| / |A or B|; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _unique_pairs(leaders: np.ndarray, members: np.ndarray) -> pa.Table:
    apart = leaders != members
    leaders, members = leaders[apart], members[apart]
    order = np.lexsort((members, leaders))
    leaders, members = leaders[order], members[order]
    new = np.ones(len(leaders), bool)
    new[1:] = (leaders[1:] != leaders[:-1]) | (members[1:] != members[:-1])
    return pa.table({"leader": leaders[new], "document": members[new]})


def _sets_of(texts: pa.Array, shingling: Shingling) -> tuple[np.ndarray, np.ndarray]:
    """The distinct shingles of documents cut to 32 bits, sorted within each, and int64[documents + 1] offsets."""
    data, offsets = bytes_of(texts)
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    sets, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for first, after in chunks(offsets):
        piece = data[offsets[first] : offsets[after]]
        shingles, bounds = shingles_of(piece, offsets[first : after + 1] - offsets[first], shingling)
        document = np.repeat(np.arange(after - first, dtype=np.uint64), np.diff(bounds))
        both = np.sort((document << high) | (shingles & low))
        both = both[np.append(True, both[1:] != both[:-1])] if len(both) else both
        sets.append((both & low).astype(np.uint32))
        counts.append(np.bincount((both >> high).astype(np.int64), minlength=after - first))
    return np.concatenate(sets), np.concatenate([[0], np.cumsum(np.concatenate(counts))])


def _at_least(sets: pa.LargeListArray, threshold: float, members: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """Whether the Jaccard similarity of each member and its leader reaches the threshold, bool[members].

    32 bits of a shingle tell two documents of n and m shingles apart but for n * m / 2^32 of them.
    """
    values, offsets = sets.values.to_numpy(), sets.offsets.to_numpy()
    sizes = np.diff(offsets)
    distinct, group = np.unique(leaders, return_inverse=True)
    in_leader = _tagged(values, offsets, distinct, np.arange(len(distinct)))
    in_member = _tagged(values, offsets, members, group)
    at = np.searchsorted(in_leader, in_member)
    at[at == len(in_leader)] = 0
    shared = np.add.reduceat(in_leader[at] == in_member, np.cumsum(sizes[members]) - sizes[members], dtype=np.int64)
    return shared >= threshold * (sizes[members] + sizes[leaders] - shared)


def _tagged(values: np.ndarray, offsets: np.ndarray, which: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """The sets of some documents end to end, each number with its document's tag above it."""
    sizes = np.diff(offsets)[which]
    at = np.arange(sizes.sum()) + np.repeat(offsets[which] - (np.cumsum(sizes) - sizes), sizes)
    return (np.repeat(tags.astype(np.uint64), sizes) << np.uint64(32)) | values[at]
