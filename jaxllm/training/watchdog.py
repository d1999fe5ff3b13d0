"""Hang detection: when nothing was finished for too long, the stacks of all threads go to a file, and a person is told.

A step that hangs, hangs in a collective or in a read; the stacks of all hosts together tell which host did not come.
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxllm.training.experiment import FaultConfig

HUNG = 1  # the exit status: of a run that failed by itself and may be started again
STEPS_TO_KNOW = 5  # before the median says something, the fixed limit holds
REMEMBERED = 100


class Watchdog:
    """A thread that looks at the clock. Use as a context manager; `process` names the file.

    Limits: during steps `hang_factor` times the median step, but at least `hang_minimum` seconds; during anything else
    (`during`), and for the first steps, `hang_seconds`.
    """

    def __init__(
        self,
        config: FaultConfig,
        directory: Path,
        process: int,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
        look_every: float = 1.0,
    ):
        self._config, self._directory, self._process, self._say = config, directory, process, say
        self._clock, self._end, self._look_every = clock, end, look_every
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        self._doing: list[str] = []
        self._finished = clock()
        self._patience = 1
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watchdog:
        if self._config.hang_factor:
            self._finished = self._clock()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def step_done(self) -> None:
        now = self._clock()
        self._steps.append(now - self._finished)
        self._finished, self._patience = now, 1

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """For what takes its own time, and is no step."""
        self._doing.append(what)
        self._finished = self._clock()
        try:
            yield
        finally:
            self._doing.pop()
            self._finished, self._patience = self._clock(), 1

    @property
    def limit(self) -> float:
        """Seconds that may pass now without anything being finished."""
        if self._doing or len(self._steps) < STEPS_TO_KNOW:
            return self._config.hang_seconds
        return max(self._config.hang_factor * statistics.median(self._steps), self._config.hang_minimum)

    def look(self) -> None:
        """Once: act when the limit has passed, and again only after twice as long."""
        waited = self._clock() - self._finished
        if waited <= self.limit * self._patience:
            return
        self._patience *= 2
        what = self._doing[-1] if self._doing else "a step"
        path = self._directory / f"stacks-{self._process}-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        with open(path, "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        ending = "; ending this process, so that it can be started again" if self._config.hang_exit else ""
        self._say(
            f"nothing was finished for {waited:.0f} s, in {what}, in process {self._process}: the stacks of all "
            f"threads are in {path}{ending}"
        )
        if self._config.hang_exit:
            self._end(HUNG)

    def _watch(self) -> None:
        while not self._over.wait(self._look_every):
            self.look()
