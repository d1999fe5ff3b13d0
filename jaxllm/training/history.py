"""What a run directory tells of its run: `metrics.jsonl` and `config.json`, read while it goes on or long after."""

from __future__ import annotations

import fcntl
import json
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True)
class History:
    """The rows of a run that still hold: what was logged and then rolled back or run again is left out.

    `training` and `evaluations` ascend in step. To what the log holds, training rows add `elapsed`: the seconds of
    training up to and including this step, those of steps that were rolled back too.
    """

    training: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    events: tuple[Row, ...] = ()
    unreadable_lines: int = 0

    def series(self, quantity: str, along: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """(x, y), float64 [N] each: `quantity` at every row that has it, along "step", "tokens" or "elapsed".

        Evaluation rows have only their step: their tokens and seconds are those of the training row of that step, or
        lie between those around it. Logged "nan" and "inf" come back as such.
        """
        rows = [row for row in (*self.training, *self.evaluations) if quantity in row]
        y = np.array([_number(row[quantity]) for row in rows])
        x = np.array([row["step"] for row in rows], np.float64)
        if along != "step":
            marks = [row for row in self.training if along in row]
            steps = [row["step"] for row in marks]
            x = np.interp(x, steps, [row[along] for row in marks]) if marks else np.full_like(x, np.nan)
        return x, y

    def last(self, quantity: str) -> float | None:
        """The newest value that was logged, None where there is none."""
        _, y = self.series(quantity)
        return float(y[-1]) if len(y) else None

    def best_evaluation(self) -> Row | None:
        """The evaluation row with the lowest finite val_loss."""
        rows = [row for row in self.evaluations if math.isfinite(_number(row.get("val_loss", "nan")))]
        return min(rows, key=lambda row: row["val_loss"], default=None)

    def noted(self, name: str) -> Any:
        """The value that the first event to carry it gives to `name`."""
        return next((event[name] for event in self.events if name in event), None)


def read_history(directory: str | Path) -> History:
    """The history of a run directory, empty before the first row. Raises ValueError if there is no such directory.

    A last line that is still being written is ignored; any other that is no row is counted in `unreadable_lines`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"there is no run directory {directory}")
    try:
        content = (directory / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return History()
    *lines, unfinished = content.split(b"\n")
    del unfinished  # what follows the last newline: nothing, or half a row
    rows, unreadable = [], 0
    for line in lines:
        row = _row(line)
        if row is None:
            unreadable += 1
        else:
            rows.append(row)
    return replace(_surviving(rows), unreadable_lines=unreadable)


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _surviving(rows: list[Row]) -> History:
    training: list[Row] = []
    evaluations: list[Row] = []
    events: list[Row] = []
    elapsed = 0.0
    for row in rows:
        step = row["step"]
        if "event" in row:
            events.append(row)
            if row["event"] == "rollback":
                _drop(training, step + 1)
                _drop(evaluations, step + 1)
        elif "val_loss" in row:
            _drop(evaluations, step)
            evaluations.append(row)
        else:
            _drop(training, step)
            _drop(evaluations, step)
            elapsed += row.get("seconds", 0.0)
            training.append({**row, "elapsed": elapsed})
    return History(tuple(training), tuple(evaluations), tuple(events))


def _drop(rows: list[Row], first: int) -> None:
    """Forget the rows of step `first` and after."""
    while rows and rows[-1]["step"] >= first:
        rows.pop()


def _number(value: Any) -> float:
    """Non-finite numbers are logged as the strings "nan" and "inf"; null is a number that is not known."""
    return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Summary:
    """One line about a run; None stands for what its files do not tell."""

    status: str  # "running", "finished", "stopped" or "not started"
    step: int
    steps: int | None
    parameters: int | None
    tokens: int | None
    loss: float | None
    val_loss: float | None  # the lowest
    val_bpb: float | None  # of the same evaluation
    tokens_per_second: float | None  # median, so that compilation and pauses do not count
    seconds: float | None
    started: float | None  # seconds since the epoch


def summarize(directory: str | Path) -> Summary:
    """What `jaxllm runs` shows. Raises ValueError if the directory is missing or its config.json unreadable."""
    directory = Path(directory)
    history = read_history(directory)
    steps = planned_steps(directory)
    newest = history.training[-1] if history.training else {}
    step = newest.get("step", 0)
    if is_running(directory):
        status = "running"
    elif steps is not None and step >= steps:
        status = "finished"
    else:
        status = "stopped" if history.training else "not started"
    best = history.best_evaluation() or {}
    rates = [row["tokens_per_second"] for row in history.training if "tokens_per_second" in row]
    return Summary(
        status=status,
        step=step,
        steps=steps,
        parameters=history.noted("parameters"),
        tokens=newest.get("tokens"),
        loss=history.last("loss"),
        val_loss=best.get("val_loss"),
        val_bpb=best.get("val_bpb"),
        tokens_per_second=statistics.median(rates) if rates else None,
        seconds=newest.get("elapsed"),
        started=history.noted("time"),
    )


def planned_steps(directory: Path) -> int | None:
    """`training.steps` of config.json; the config is not built, so that runs of other versions are listed too."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    training = config.get("training") if isinstance(config, dict) else None
    return training.get("steps") if isinstance(training, dict) else None


def is_running(directory: Path) -> bool:
    """Whether a process holds the run's lock."""
    try:
        with open(directory / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
