"""How a run is shown: a bar that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxllm.training.job import Reporter, Silent

# Lines in a log file are for reading afterwards: one in ten seconds tells enough.
SECONDS_BETWEEN_LINES = 10


@contextlib.contextmanager
def reporter() -> Iterator[Reporter]:
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as progress:
        yield Bar(progress)


@contextlib.contextmanager
def silence() -> Iterator[Reporter]:
    """For all processes of a job but the first: what they would say is the same."""
    yield Silent()


class Lines:
    def __init__(self):
        self._last = 0.0

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def progress(self, row: dict[str, Any], steps: int) -> None:
        now = time.monotonic()
        if "val_loss" in row or row["step"] == steps or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self.say(f"step {row['step']}/{steps}  {_numbers(row)}")


class Bar:
    def __init__(self, progress):
        self._progress = progress
        self._task = None
        self._evaluation = ""

    def say(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def progress(self, row: dict[str, Any], steps: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("train", total=steps, numbers="")
        if "val_loss" in row:
            self._evaluation = _numbers(row)
            self.say(f"step {row['step']}  {self._evaluation}")
            return
        self._progress.update(self._task, completed=row["step"], numbers=f"{_numbers(row)}  {self._evaluation}")


def _numbers(row: dict[str, Any]) -> str:
    if "val_loss" in row:
        return f"validation loss {row['val_loss']:.4f}  {row['val_bpb']:.4f} bits/byte"
    mfu = "" if row["mfu"] is None else f"  mfu {row['mfu']:.0%}"
    return f"loss {row['loss']:.4f}  {row['tokens_per_second']:,.0f} tokens/s{mfu}"
