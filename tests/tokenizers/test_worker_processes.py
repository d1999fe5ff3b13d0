import os
from functools import partial

import pytest

from jaxllm.tokenizers.worker_processes import batches, map_in_order


def square(x: int) -> int:
    return x * x


def fail_at(x: int, place: int) -> int:
    if x == place:
        raise ValueError(f"item {x} is bad")
    return x


def process(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_order(processes):
    assert list(map_in_order(square, range(50), processes)) == [x * x for x in range(50)]
    assert list(map_in_order(square, [], processes)) == []


def test_other_processes_do_the_work():
    assert os.getpid() not in set(map_in_order(process, range(8), 2))
    assert set(map_in_order(process, range(8), 1)) == {os.getpid()}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_through(processes):
    with pytest.raises(ValueError, match="^item 3 is bad$"):
        list(map_in_order(partial(fail_at, place=3), range(50), processes))


def test_items_are_taken_as_they_are_needed():
    taken = []
    results = map_in_order(square, (taken.append(x) or x for x in range(1000)), 2)
    assert next(results) == 0
    assert len(taken) < 20
    results.close()


@pytest.mark.parametrize("processes", [0, -1])
def test_too_few_processes(processes):
    with pytest.raises(ValueError, match=f"^processes must be at least 1, got {processes}$"):
        list(map_in_order(square, [1], processes))


def test_batches():
    assert list(batches(["ab", "c", "defgh", "", "i"], 3)) == [["ab", "c"], ["defgh"], ["", "i"]]
    assert list(batches([], 3)) == []
