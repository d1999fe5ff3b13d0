"""Tasks in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from jaxllm.data.engines import Task
from jaxllm.data.engines.shipping import perform, received, shipped

# Times that workers may die in a row without any task being finished in between.
_PATIENCE = 3


class Processes:
    """Worker processes: new interpreters, not forks, which deadlock where a library has threads of its own.

    A worker that is killed, perhaps because memory ran out, takes its pool with it: what was not finished is done again
    in a new one. A task that kills its worker each time ends the run with ChildProcessError.
    """

    def __init__(self, workers: int = 0):
        """workers: how many; 0 means one for each core that this process may use."""
        self._workers = workers or _cores()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, tasks: Sequence[Task]) -> Iterator[Any]:
        waiting = dict(enumerate(tasks))
        deaths = 0
        while waiting:
            before = len(waiting)
            try:
                yield from self._attempt(waiting)
            except BrokenProcessPool as error:
                self.close()
                deaths = deaths + 1 if len(waiting) == before else 1
                if deaths == _PATIENCE:
                    raise ChildProcessError(
                        f"worker processes were killed {_PATIENCE} times without finishing a task, perhaps for want of "
                        "memory; use fewer workers or smaller shards, and run again to go on from here"
                    ) from error

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _attempt(self, waiting: dict[int, Task]) -> Iterator[Any]:
        """Runs what is waiting in one pool; takes each task out of it as it is finished."""
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=spawn, initializer=_begin)
        queue = iter(list(waiting))
        running: dict[Future, int] = {}
        try:
            while waiting:
                # Twice as many as there are workers, so that none is ever idle; not all, for there may be very many.
                while len(running) < 2 * self._workers and (number := next(queue, None)) is not None:
                    running[self._pool.submit(perform, shipped(waiting[number]))] = number
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=running.__getitem__):
                    result = received(future.result())
                    del waiting[running.pop(future)]
                    yield result
        finally:
            for future in running:
                future.cancel()


def _cores() -> int:
    """Cores that this process may use; where the system can't say (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """In each worker: end quietly on Ctrl-C, and end with the process that started it, however that ends."""
    import pyarrow

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pyarrow.set_cpu_count(1)  # the cores are taken by the other workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
