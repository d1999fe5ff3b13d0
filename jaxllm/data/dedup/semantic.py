"""Documents that say the same in other words: embeddings that lie close together, after SemDeDup (Abbas et al. 2023).

The embeddings come from a function that is handed in, since models live above this room. They are clustered by
spherical k-means beforehand, on a sample; documents are compared within their cluster only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from jaxllm.data.dedup.clusters import drops, refuse_twins
from jaxllm.data.dedup.words import mixed
from jaxllm.data.records import texts_of

Embed = Callable[[list[str]], np.ndarray]
"""Texts to vectors, float[texts, width]. It goes to workers with the stage and is named in its fingerprint, so it is a
frozen dataclass with a __call__, which opens its model where it is first used, rather than a closure."""

# Similarities are worked out in squares of so many rows and columns: 16 MB at a time.
_SQUARE = 2048


@dataclass(frozen=True)
class Semantic:
    """Drops documents whose embedding has a cosine of `threshold` or more with one of their cluster that stays.

    Costs the square of the clusters' sizes: choose their number so that each has a few thousand documents. A
    CrossStage.
    """

    embed: Embed
    centroids: str
    """a file of `train_centroids`: .npy, float32[clusters, width]"""
    threshold: float = 0.95
    keep: Literal["farthest", "nearest"] = "farthest"
    """which of several: the farthest from the cluster's centroid, as SemDeDup has it, or the nearest"""
    name: str = "semantic"

    def __post_init__(self):
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine, between -1 and 1, got {self.threshold}")
        if self.keep not in ("farthest", "nearest"):
            raise ValueError(f"keep must be 'farthest' or 'nearest', got {self.keep!r}")

    def keys(self, batch: pa.RecordBatch) -> pa.Table:
        centroids = _read_centroids(self.centroids)
        embedded = self.embed(texts_of(batch)) if batch.num_rows else np.zeros((0, centroids.shape[1]))
        vectors = unit_rows(np.asarray(embedded, np.float32))
        if vectors.shape != (batch.num_rows, centroids.shape[1]):
            raise ValueError(
                f"the embeddings of {batch.num_rows} texts have shape {vectors.shape}, the centroids in "
                f"{self.centroids} have width {centroids.shape[1]}: they must come from the same function"
            )
        cluster, cosine = nearest(vectors, centroids)
        values = pa.array(vectors.reshape(-1))
        return pa.table(
            {
                "key": mixed(cluster.astype(np.uint64) + np.uint64(1)),
                "id": batch.column("id"),
                "cosine": cosine,
                "vector": pa.FixedSizeListArray.from_arrays(values, centroids.shape[1]),
            }
        )

    def match(self, rows: pa.Table) -> pa.Table:
        """The ids to drop: each with a document before it, in the order of preference, that stays and is too close."""
        order = [("key", "ascending"), ("cosine", "ascending" if self.keep == "farthest" else "descending")]
        rows = rows.sort_by([*order, ("id", "ascending")]).combine_chunks()
        refuse_twins(rows["id"], rows["key"])
        keys = rows["key"].to_numpy()
        bounds = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]])) if len(rows) else [0]
        column = rows["vector"].combine_chunks()
        gone = []
        for first, after in zip(bounds[:-1], bounds[1:], strict=True):
            part = column.slice(first, after - first)
            vectors = part.flatten().to_numpy().reshape(len(part), -1)
            gone.append(first + np.flatnonzero(too_close(vectors, self.threshold)))
        return rows.select(["id"]).take(pa.array(np.concatenate([np.zeros(0, np.int64), *gone])))

    def resolve(self, matches: pa.Table) -> pa.Table:
        return drops(sorted(matches["id"].to_pylist()), "says the same")


def too_close(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """Which unit rows have a cosine of `threshold` or more with a row before them that is not itself dropped."""
    gone = np.zeros(len(vectors), bool)
    for begin in range(0, len(vectors), _SQUARE):
        block = vectors[begin : begin + _SQUARE]
        for earlier in range(0, begin, _SQUARE):
            kept = vectors[earlier : earlier + _SQUARE][~gone[earlier : earlier + _SQUARE]]
            if len(kept):
                gone[begin : begin + _SQUARE] |= (block @ kept.T).max(axis=1) >= threshold
        within = np.tril(block @ block.T >= threshold, -1)
        for row in np.flatnonzero(within.any(axis=1)):
            gone[begin + row] |= bool((within[row] & ~gone[begin : begin + len(block)]).any())
    return gone


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1. Raises ValueError for a row of zeros, infinities or NaN."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)))
    if len(bad):
        raise ValueError(f"row {bad[0]} of the embeddings has no direction: its length is {lengths[bad[0], 0]}")
    return vectors / lengths


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each unit row the closest centroid, int64, and the cosine with it, float32."""
    cluster, cosine = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for begin in range(0, len(vectors), _SQUARE):
        products = vectors[begin : begin + _SQUARE] @ centroids.T
        cluster[begin : begin + _SQUARE] = products.argmax(axis=1)
        cosine[begin : begin + _SQUARE] = products.max(axis=1)
    return cluster, cosine


def train_centroids(vectors: np.ndarray, clusters: int, iterations: int = 20, seed: int = 0) -> np.ndarray:
    """Spherical k-means (Dhillon and Modha 2001): float32[clusters, width], unit rows that raise the sum of cosines.

    vectors: float[n, width], a sample of the corpus; lengths make no difference. Begins with rows drawn at random; a
    cluster that loses all its members gets the row that fits its own worst. Raises ValueError for fewer rows than
    clusters.
    """
    vectors = unit_rows(np.asarray(vectors, np.float32))
    if not 1 <= clusters <= len(vectors):
        raise ValueError(f"{len(vectors)} vectors can be put into 1 to {len(vectors)} clusters, asked for {clusters}")
    drawn = np.random.Generator(np.random.PCG64(seed)).choice(len(vectors), clusters, replace=False)
    centroids = vectors[np.sort(drawn)]
    before = None
    for _ in range(iterations):
        cluster, cosine = nearest(vectors, centroids)
        empty = np.setdiff1d(np.arange(clusters), cluster)
        cluster[np.argsort(cosine, kind="stable")[: len(empty)]] = empty
        if before is not None and np.array_equal(cluster, before):
            break
        before = cluster
        sums = np.zeros_like(centroids)
        np.add.at(sums, cluster, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # Members that cancel out leave no direction: the centroid stays where it was.
        centroids = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centroids)
    return centroids


def _read_centroids(path: str) -> np.ndarray:
    try:
        centroids = np.load(Path(path), allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: there are no centroids; make them with train_centroids on a sample") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: is not a readable .npy file of centroids: {error}") from error
    if centroids.ndim != 2 or centroids.dtype.kind != "f":
        raise ValueError(
            f"{path}: centroids are floats [clusters, width], found {centroids.dtype} {list(centroids.shape)}"
        )
    return unit_rows(centroids.astype(np.float32))
