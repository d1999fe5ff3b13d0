"""Doing the same thing to many items in several processes, in order, and with few of them in memory at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import TypeVar

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


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """work(item) for each item, in their order.

    work goes to each process once and stays there, so what it remembers is remembered. It must be picklable. Raises
    ValueError unless there is at least one process, and what work raises.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    if processes == 1:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(processes, _context(), _remember, (work,)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(_do, item))
                if len(pending) > _WAITING * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


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
