"""Doing the same thing to many items in several processes, in order, and with few of them in memory at a time.

This process is one of them, and is at work while the others start. Those are interpreters of their own, not forks,
which deadlock where another thread holds a lock (JAX and NumPy have threads), and import only what the work needs.
Items and results go through files, so that no one ever waits for the other to read; pipes say which are there.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from multiprocessing import spawn
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that each other process has or waits for: enough that none is ever idle, and few to wait for at the end.
_WAITING = 2
# Results for each process that are kept until those before them are there, such as of processes that still start.
_AHEAD = 16
BATCH_CHARACTERS = 1 << 18
"""Characters of text that are handed to a process at a time: some tens of milliseconds of work."""


def batches(texts: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """The texts in order, so many characters of them at a time, or one text that is longer."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Workers(Generic[Item, Result]):
    """Processes that do one thing to items. It goes to each of them once, so what it remembers stays remembered.

    with Workers(work, processes=2) as workers:
        for result in workers.map(items): ...
    """

    def __init__(self, work: Callable[[Item], Result], processes: int):
        """work: must be picklable. Raises ValueError unless there is at least one process; one is this process."""
        if processes < 1:
            raise ValueError(f"processes must be at least 1, got {processes}")
        self._work, self._numbers = work, count()
        self._others: list[_Process] = []
        if processes > 1:
            self._folder = TemporaryDirectory(prefix="jaxllm-")
            _write_task(Path(self._folder.name) / "work", work)
            self._others = [_Process(self._folder.name) for _ in range(processes - 1)]

    def __enter__(self) -> Workers[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._others:
            process.close()
        if self._others:
            self._folder.cleanup()
        self._others = []

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """work(item) for each item, in their order; raises what work raises, and RuntimeError if a process ends."""
        pending: deque[_Here | _There] = deque()
        most = _AHEAD * len(self._others)
        try:
            for item in items:
                free = next((process for process in self._others if process.waiting() < _WAITING), None)
                pending.append(free.give(next(self._numbers), item) if free else _Here(_outcome(self._work, item)))
                while pending and (len(pending) > most or pending[0].is_there()):
                    yield _result(pending.popleft().outcome())
            while pending:
                yield _result(pending.popleft().outcome())
        finally:
            for one in pending:
                one.forget()


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """work(item) for each item, in their order, by Workers of its own."""
    with Workers(work, processes) as workers:
        yield from workers.map(items)


Outcome = tuple[Any, Exception | None]
"""A result, or what was raised instead."""


def _outcome(work: Callable, item: Any) -> Outcome:
    try:
        return work(item), None
    except Exception as error:  # it is raised where the result is asked for
        return None, error


def _result(outcome: Outcome) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result


class _Here:
    """What came of an item in this process."""

    def __init__(self, outcome: Outcome):
        self._outcome = outcome

    def is_there(self) -> bool:
        return True

    def outcome(self) -> Outcome:
        return self._outcome

    def forget(self) -> None:
        pass


class _There:
    """What will come of an item in another process."""

    def __init__(self, process: _Process, number: int):
        self._process, self._number = process, number

    def is_there(self) -> bool:
        return self._process.has_done(self._number)

    def outcome(self) -> Outcome:
        return self._process.take(self._number)

    def forget(self) -> None:
        self._process.forgotten.add(self._number)


# The arguments are the folder and the path for imports.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from jaxllm.tokenizers.worker_processes import serve; serve(sys.argv[1])"
)


class _Process:
    """Another process, and the items that it has."""

    def __init__(self, folder: str):
        self._folder, self._open = Path(folder), deque[int]()
        self.forgotten: set[int] = set()
        home = str(Path(__file__).parents[2])  # where this package is, however the interpreter found it
        command = [sys.executable, "-c", _START, folder, *sys.path, home]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def waiting(self) -> int:
        """How many items it has not done yet."""
        while self._open and self.has_done(self._open[0]):
            number = self._open.popleft()
            if number in self.forgotten:
                self.forgotten.remove(number)
                self._path(number, "out").unlink()
        return len(self._open)

    def give(self, number: int, item: Any) -> _There:
        self._path(number, "in").write_bytes(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
        try:
            self._process.stdin.write(b"%d\n" % number)
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        self._open.append(number)
        return _There(self, number)

    def has_done(self, number: int) -> bool:
        return os.path.exists(self._path(number, "out"))

    def take(self, number: int) -> Outcome:
        path = self._path(number, "out")
        while not path.exists():
            if not self._process.stdout.readline():
                raise self._ended()
        outcome = pickle.loads(path.read_bytes())
        self.waiting()  # before the file is gone
        path.unlink()
        return outcome

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number}.{kind}"

    def _ended(self) -> RuntimeError:
        return RuntimeError(
            f"a worker process ended with code {self._process.wait()} before its work was done; if it was killed, "
            "memory may have run out: use fewer processes"
        )


def _write_task(path: Path, work: Callable) -> None:
    """The work, and what the interpreter that does it needs to know of this one."""
    pickled = pickle.dumps(work, pickle.HIGHEST_PROTOCOL)
    preparation = spawn.get_preparation_data("worker")
    if b"\x8c\x08__main__" not in pickled:
        # The script that is running is imported only if the work is defined in it: it may import anything.
        preparation = {name: value for name, value in preparation.items() if not name.startswith("init_main")}
    preparation.pop("authkey", None)
    path.write_bytes(pickle.dumps((preparation, pickled)))


def serve(folder: str) -> None:
    """Does the work in another process, for each number that comes in, until there are no more."""
    # Whatever the work may print, the pipe is for numbers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    place = Path(folder)
    preparation, pickled = pickle.loads((place / "work").read_bytes())
    spawn.prepare(preparation)
    work = pickle.loads(pickled)
    for line in sys.stdin.buffer:
        source, part, target = (place / f"{int(line)}.{kind}" for kind in ("in", "part", "out"))
        item = pickle.loads(source.read_bytes())
        source.unlink()
        outcome = _outcome(work, item)
        try:
            data = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            data = pickle.dumps((None, RuntimeError(f"what came of the work can't be sent: {error}")))
        part.write_bytes(data)
        part.replace(target)
        replies.write(line)
        replies.flush()
