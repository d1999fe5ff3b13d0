import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data.dedup.clusters import (
    PAIRS,
    check_rule,
    components,
    dropped_of,
    grouped,
    pairs_with_leaders,
    priorities,
)

from .small_engine import batch_of


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_scipys(graph):
    sparse = pytest.importorskip("scipy.sparse", reason="scipy comes with jax")
    from scipy.sparse.csgraph import connected_components

    count, edges = graph
    a, b = np.array(edges, np.int64).reshape(-1, 2).T
    found = components(a, b, count)
    _, expected = connected_components(sparse.coo_array((np.ones(len(a)), (a, b)), (count, count)), directed=False)
    smallest = {label: int(np.flatnonzero(expected == label)[0]) for label in set(expected.tolist())}
    assert found.tolist() == [smallest[label] for label in expected.tolist()]


@pytest.mark.parametrize("order", ["up", "down", "mixed", "star"])
def test_long_chains_and_stars_take_few_passes(order):
    count = 100_000
    if order == "star":
        assert (components(np.arange(count - 1), np.full(count - 1, count - 1), count) == 0).all()
        return
    a = np.arange(count - 1)
    if order == "mixed":
        a = np.random.default_rng(0).permutation(a)
    a, b = (a, a + 1) if order != "down" else (a[::-1] + 1, a[::-1])
    assert (components(a, b, count) == 0).all()


@given(st.lists(st.integers(0, 6)))
def test_grouped_gives_shared_keys_only(keys):
    rows, starts = grouped(np.array(keys, np.uint64))
    expected = [[row for row, one in enumerate(keys) if one == key] for key in sorted(set(keys)) if keys.count(key) > 1]
    assert [one.tolist() for one in np.split(rows, starts[1:])] == (expected or [[]])


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=5))
def test_leaders_find_what_all_pairs_would(groups):
    kinds = np.array([kind for group in groups for kind in group], int)
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    compared = []

    def alike(members, leaders):
        compared.extend(zip(members.tolist(), leaders.tolist(), strict=True))
        return kinds[members] == kinds[leaders]

    leaders, members = pairs_with_leaders(starts, len(kinds), alike)
    found = components(leaders, members, len(kinds))
    same = (kinds[:, None] == kinds) & (number[:, None] == number)
    assert found.tolist() == [int(np.flatnonzero(row)[0]) for row in same]
    assert all(number[a] == number[b] for a, b in compared)


def test_a_huge_bucket_costs_rounds_times_its_size():
    compared = 0

    def never(members, leaders):
        nonlocal compared
        compared += len(members)
        return np.zeros(len(members), bool)

    pairs_with_leaders(np.array([0]), 5000, never, rounds=4)
    assert compared == 4999 + 4998 + 4997 + 4996


def pairs(*rows):
    return pa.Table.from_pylist([dict(zip(PAIRS.names, row, strict=True)) for row in rows], PAIRS)


def test_the_best_of_a_cluster_stays_and_the_smallest_id_among_equals():
    table = pairs(("b", 1.0, "a", 1.0), ("b", 1.0, "c", 2.0), ("x", 0.0, "y", 0.0), ("y", 0.0, "w", 0.0))
    assert dropped_of(table, "why").to_pydict() == {"id": ["a", "b", "x", "y"], "reason": ["why"] * 4}
    assert dropped_of(pairs(), "why").num_rows == 0


def test_rules():
    batch = batch_of(["ab", "éé", ""], metadata=[{"s": 3}, {"s": 1.5}, {}])
    assert priorities(batch, "first").tolist() == [0, 0, 0]
    assert priorities(batch.slice(1), "longest").tolist() == [4, 0]
    assert priorities(batch.slice(0, 2), "score:s").tolist() == [3, 1.5]
    with pytest.raises(ValueError, match=r"document d000002: its metadata has no number 's' \(found None\)"):
        priorities(batch, "score:s")
    for wrong in ("best", "score:", "score"):
        with pytest.raises(ValueError, match="keep must be 'first'"):
            check_rule(wrong)
