"""Doing the same thing to many items in several processes, in order, and with few of them in memory at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that wait for each process: enough that none is ever idle, and few enough to be forgotten about in memory.
_WAITING = 3
BATCH_CHARACTERS = 1 << 20
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
        self._work, self._processes = work, processes
        self._pool = ProcessPoolExecutor(processes, _context(), _remember, (work,)) if processes > 1 else None

    def __enter__(self) -> Workers[Item, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """work(item) for each item, in their order; raises what work raises."""
        if not self._pool:
            yield from map(self._work, items)
            return
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(_do, item))
                if len(pending) > _WAITING * self._processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """work(item) for each item, in their order, by Workers of its own."""
    with Workers(work, processes) as workers:
        yield from workers.map(items)


def _context() -> BaseContext:
    """How processes are started.

    A fork is ready at once, but deadlocks where another thread holds a lock, and JAX and NumPy have threads. So it is
    used only where there is a single one.
    """
    methods = multiprocessing.get_all_start_methods()
    alone = os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) == 1
    if alone and "fork" in methods:
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


_work: Callable | None = None


def _remember(work: Callable) -> None:
    global _work
    _work = work


def _do(item):
    return _work(item)
