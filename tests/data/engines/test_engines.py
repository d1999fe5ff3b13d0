"""Every engine calls each task, whatever happens to its workers."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxllm.data.engines import make_engine
from jaxllm.data.engines.processes import Processes
from jaxllm.data.engines.shipping import perform, received, shipped


@dataclass(frozen=True)
class Square:
    """A task that leaves a mark each time it is begun, and may kill its worker the first times."""

    number: int
    marks: str
    deaths: int = 0

    def __call__(self):
        marks = Path(self.marks)
        begun = len(list(marks.glob(f"{self.number}-*")))
        (marks / f"{self.number}-{begun}").touch()
        if begun < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.number < 0:
            raise ValueError(f"there is no square of {self.number} here")
        return self.number**2, os.getpid()


def test_in_this_process(tmp_path):
    results = list(make_engine("local").run([Square(n, str(tmp_path)) for n in range(4)]))
    assert results == [(n**2, os.getpid()) for n in range(4)]


def test_in_processes_one_of_which_is_killed(tmp_path):
    engine = make_engine("processes", workers=2)
    tasks = [Square(n, str(tmp_path), deaths=n == 3) for n in range(8)]
    results = list(engine.run(tasks))
    assert sorted(square for square, _ in results) == [n**2 for n in range(8)]
    assert os.getpid() not in {process for _, process in results}
    assert (tmp_path / "3-1").exists(), "the task whose worker was killed was not begun again"
    with pytest.raises(ValueError, match="there is no square of -1 here"):
        list(engine.run([Square(-1, str(tmp_path)), *tasks]))
    engine.close()


def test_a_task_that_always_kills_its_worker_ends_the_run(tmp_path):
    engine = Processes(1)
    with pytest.raises(ChildProcessError, match="were killed 3 times without finishing a task"):
        list(engine.run([Square(1, str(tmp_path), deaths=99)]))
    engine.close()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "proceses"}, "unknown engine 'proceses'; did you mean processes"),
        ({"name": "local", "workers": 4}, "the engine local is one process"),
        ({"name": "processes", "workers": -1}, "workers must not be negative, got -1"),
        ({"name": "processes", "address": "a:1"}, "an address is for the engine ray, not for processes"),
    ],
)
def test_what_no_engine_can_do_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_engine(**settings)


class Picky(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@dataclass(frozen=True)
class Fails:
    def __call__(self):
        raise Picky("this", "that")


def test_an_exception_that_can_not_be_made_again_still_tells_what_it_was():
    with pytest.raises(RuntimeError, match="this and that"):
        received(perform(shipped(Fails())))


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert Processes()._workers == os.cpu_count()
