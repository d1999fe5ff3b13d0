"""From pairs to clusters, and from a cluster to the one document that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxllm.data.dedup.words import bytes_of

# How often the rest of a bucket chooses a new leader. One of k different clusters in one bucket needs k rounds.
ROUNDS = 32

PAIRS = pa.schema(
    [("id", pa.string()), ("priority", pa.float64()), ("other", pa.string()), ("other_priority", pa.float64())]
)
"""Two documents that are duplicates, each with what decides which of a cluster is kept."""


def components(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """The connected components of a graph of `count` nodes with edges (a[i], b[i]): each node's smallest fellow.

    Union-find on whole arrays: all roots are hooked to smaller ones at once, then all paths are halved until they are
    flat. The number of passes grows with the logarithm of the longest path.
    """
    parent = np.arange(count)
    a, b = np.asarray(a), np.asarray(b)
    while len(a):
        root_a, root_b = parent[a], parent[b]
        apart = root_a != root_b
        a, b = a[apart], b[apart]
        small, large = np.minimum(root_a, root_b)[apart], np.maximum(root_a, root_b)[apart]
        np.minimum.at(parent, large, small)
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
    return parent


def grouped(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose key occurs more than once, those of a key together, and where each key begins among them."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] |= same
    shared[:-1] |= same
    rows = order[shared]
    left = keys[rows]
    starts = np.flatnonzero(np.concatenate([[True], left[1:] != left[:-1]])) if len(rows) else np.zeros(0, np.int64)
    return rows, starts


def pairs_with_leaders(
    starts: np.ndarray, count: int, alike: Callable[[np.ndarray, np.ndarray], np.ndarray], rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (leader, member) of rows that are alike, within groups that begin at `starts` in rows 0 .. count - 1.

    The first row of each group leads; all others of the group are compared with it, and those that are not like it
    elect the next leader, and so on for at most `rounds` leaders: a group of m rows costs at most rounds * m
    comparisons, never m * m. `alike` is given arrays of members and their leaders.
    """
    waiting = np.arange(count)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, count)))
    leaders, members = [], []
    for _ in range(rounds):
        first = np.concatenate([[True], group[1:] != group[:-1]]) if len(group) else np.zeros(0, bool)
        if first.all():
            break
        leader = waiting[first][np.cumsum(first) - 1]
        waiting, group, leader = waiting[~first], group[~first], leader[~first]
        linked = alike(waiting, leader)
        leaders.append(leader[linked])
        members.append(waiting[linked])
        waiting, group = waiting[~linked], group[~linked]
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *leaders]), np.concatenate([none, *members])


def check_rule(keep: str) -> None:
    if keep not in ("first", "longest") and not (keep.startswith("score:") and len(keep) > len("score:")):
        raise ValueError(
            f"keep must be 'first' (the smallest id), 'longest' or 'score:FIELD' (the highest number in that field of "
            f"the metadata), got {keep!r}"
        )


def priorities(batch: pa.RecordBatch, keep: str) -> np.ndarray:
    """What decides which of a cluster is kept, float64[documents]: the highest; among equals the smallest id.

    Raises ValueError for a document whose metadata has no such number.
    """
    if keep == "first":
        return np.zeros(batch.num_rows)
    if keep == "longest":
        return np.diff(bytes_of(batch.column("text"))[1]).astype(np.float64)
    field = keep.removeprefix("score:")
    rows = zip(batch.column("id").to_pylist(), batch.column("metadata").to_pylist(), strict=True)
    return np.array([_score(name, json.loads(metadata or "{}").get(field), field) for name, metadata in rows], float)


def _score(name: str, value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(
            f"document {name}: its metadata has no number {field!r} (found {value!r}), by which duplicates are chosen; "
            "add it with a stage that runs before, or keep 'first' or 'longest'"
        )
    return float(value)


def dropped_of(pairs: pa.Table, reason: str) -> pa.Table:
    """All but the best of each cluster, as a table of `id` and `reason` sorted by id; `pairs` has the schema PAIRS."""
    ids = pa.concat_arrays([*pairs["id"].chunks, *pairs["other"].chunks]) if len(pairs) else pa.array([], pa.string())
    encoded = ids.dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    left, right = codes[: len(pairs)], codes[len(pairs) :]
    priority = np.zeros(len(names))
    priority[left], priority[right] = pairs["priority"].to_numpy(), pairs["other_priority"].to_numpy()
    cluster = components(left, right, len(names))
    by_name = np.argsort(np.array(names, object)) if names else np.zeros(0, np.int64)
    order = by_name[np.lexsort((-priority[by_name], cluster[by_name]))]
    lost = order[1:][cluster[order][1:] == cluster[order][:-1]]
    return drops(sorted(names[row] for row in lost), reason)


def refuse_twins(ids: pa.ChunkedArray, keys: pa.ChunkedArray) -> None:
    """Raises ValueError when an id occurs twice with one key: such documents can't be dropped one without the other."""
    counts = pa.table({"id": ids, "key": keys}).group_by(["id", "key"]).aggregate([([], "count_all")])
    twins = counts.filter(pc.greater(counts["count_all"], 1))["id"]
    if len(twins):
        raise ValueError(
            f"several documents have the id {pc.min(twins).as_py()!r}, so that none of them can be dropped alone; ids "
            "must be unique in a recipe: give its sources different names"
        )


def drops(ids: Sequence[str], reason: str) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.string()), "reason": pa.array([reason] * len(ids), pa.string())})
