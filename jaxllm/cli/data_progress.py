"""How far a preparation is: a bar that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jaxllm.cli.progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    from jaxllm.data.preparation import Watcher


@contextmanager
def watcher() -> Iterator[Watcher]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress)


class _Sums:
    """What the tasks of the present phase made so far."""

    def __init__(self):
        self._phase = ""
        self._documents = self._bytes = 0
        self._began = 0.0

    def add(self, phase: str, record: dict[str, Any] | None) -> str:
        """The numbers so far, in words; a phase that does not count documents has none."""
        if record is None:
            self._documents = self._bytes = 0
            self._began = time.monotonic()
        if not record or not record.get("levels"):
            return ""
        first, last = record["levels"][0], record["levels"][-1]
        self._documents += last["documents"]
        self._bytes += first["bytes"]
        speed = self._bytes / 1e6 / max(time.monotonic() - self._began, 1e-3)
        return f"{self._documents:,} documents left, {speed:.1f} MB/s"


class _Lines(_Sums):
    def __init__(self):
        super().__init__()
        self._last = 0.0

    def __call__(self, phase: str, done: int, total: int, record: dict[str, Any] | None) -> None:
        numbers = self.add(phase, record)
        now = time.monotonic()
        if record is not None and (done == total or now - self._last >= SECONDS_BETWEEN_LINES):
            self._last = now
            print(f"{phase}: {done}/{total}  {numbers}".rstrip(), file=sys.stderr, flush=True)


class _Bars(_Sums):
    def __init__(self, progress: Any):
        super().__init__()
        self._progress = progress
        self._task: Any = None

    def __call__(self, phase: str, done: int, total: int, record: dict[str, Any] | None) -> None:
        numbers = self.add(phase, record)
        if record is None:
            self._task = self._progress.add_task(phase, total=total, completed=done, numbers="")
        else:
            self._progress.update(self._task, completed=done, **({"numbers": numbers} if numbers else {}))
