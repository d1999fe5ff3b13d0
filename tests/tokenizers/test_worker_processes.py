import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from jaxllm.tokenizers.worker_processes import Workers, batches, map_in_order


def square(x: int) -> int:
    return x * x


def fail_at(x: int, place: int) -> int:
    if x == place:
        raise ValueError(f"item {x} is bad")
    return x


def slow_process(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def die_elsewhere(x: int, here: int) -> int:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def print_elsewhere(x: int, here: int) -> int:
    if os.getpid() != here:
        print("printed elsewhere", flush=True)
    return x


def a_function_elsewhere(x: int, here: int) -> object:
    return x if os.getpid() == here else lambda: x


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_are_in_order(processes):
    assert list(map_in_order(square, range(500), processes)) == [x * x for x in range(500)]
    assert list(map_in_order(square, [], processes)) == []


def test_this_process_and_others_do_the_work():
    found = list(map_in_order(slow_process, range(100), 3))
    assert os.getpid() in found and len(set(found)) == 3
    assert set(map_in_order(slow_process, range(8), 1)) == {os.getpid()}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_through(processes):
    for place in (0, 3, 49):  # some here, some elsewhere
        with pytest.raises(ValueError, match=f"^item {place} is bad$"):
            list(map_in_order(partial(fail_at, place=place), range(50), processes))


@pytest.mark.parametrize("processes", [1, 2])
def test_results_before_an_error_come_first(processes):
    results = map_in_order(partial(fail_at, place=4), range(50), processes)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="^item 4 is bad$"):
        next(results)


def test_items_are_taken_as_they_are_needed():
    taken = []
    results = map_in_order(square, (taken.append(x) or x for x in range(1000)), 2)
    assert next(results) == 0
    assert len(taken) < 20
    results.close()


def test_what_is_not_asked_for_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Workers(slow_process, 2) as workers:
        for _ in range(3):
            results = workers.map(range(20))
            next(results)
            results.close()
        assert len(list(workers.map(range(5)))) == 5
        (folder,) = tmp_path.iterdir()
        deadline = time.monotonic() + 20  # what a process had begun is thrown away when it is done
        while [path.name for path in folder.iterdir()] != ["work"]:
            assert time.monotonic() < deadline, list(folder.iterdir())
            list(workers.map(range(2)))
    assert not folder.exists()


def test_a_process_that_is_killed():
    with pytest.raises(RuntimeError, match="^a worker process ended with code -9 before its work was done; if it was"):
        list(map_in_order(partial(die_elsewhere, here=os.getpid()), range(100), 2))


def test_a_result_that_can_not_be_sent():
    with pytest.raises(RuntimeError, match="^what came of the work can't be sent: .*a_function_elsewhere"):
        list(map_in_order(partial(a_function_elsewhere, here=os.getpid()), range(100), 2))


def test_work_may_print(capfd):
    assert list(map_in_order(partial(print_elsewhere, here=os.getpid()), range(100), 2)) == list(range(100))
    assert "printed elsewhere" in capfd.readouterr().err


WORK = """
import sys, time
from jaxllm.tokenizers.worker_processes import map_in_order

def names(_):
    time.sleep(0.02)
    return __name__, *sorted(sys.modules.keys() & {"numpy", "jaxllm.tokenizers.kinds"})
"""
MAIN = """
if __name__ == "__main__":
    import numpy, jaxllm.tokenizers.kinds
    print(sorted({name for name, *_ in map_in_order(names, range(100), 2)}))
"""


def output_of(script: Path) -> str:
    return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout


def test_work_may_be_defined_in_the_running_script(tmp_path):
    (tmp_path / "script.py").write_text(WORK + MAIN)
    assert output_of(tmp_path / "script.py") == "['__main__', '__mp_main__']\n"


def test_only_what_the_work_needs_is_imported(tmp_path):
    """Neither the running script nor the rest of the package, nor any jax and NumPy that they import."""
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "script.py").write_text(
        "import numpy, jaxllm.tokenizers.kinds\n"
        "from work import *\n"
        "print(sorted(set(map_in_order(names, range(100), 2))))"
    )
    assert output_of(tmp_path / "script.py") == "[('work',), ('work', 'jaxllm.tokenizers.kinds', 'numpy')]\n"


@pytest.mark.parametrize("processes", [0, -1])
def test_too_few_processes(processes):
    with pytest.raises(ValueError, match=f"^processes must be at least 1, got {processes}$"):
        list(map_in_order(square, [1], processes))


def test_batches():
    assert list(batches(["ab", "c", "defgh", "", "i"], 3)) == [["ab", "c"], ["defgh"], ["", "i"]]
    assert list(batches([], 3)) == []
