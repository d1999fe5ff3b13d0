"""Where each second of a run went, over all its sessions: `time.jsonl` in the run directory, which only grows.

A line holds the seconds of one session so far, by kind. Steps that did not last, because of a rollback or because a
killed session had gone beyond its last checkpoint, are found again in the lines: they are not useful time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "time.jsonl"
SECONDS_BETWEEN_LINES = 30  # how much a killed session may forget

# What a session does at any moment is one of these. Steps are what all the rest is for.
KINDS = ("start_up", "compile", "step", "input", "evaluation", "checkpoint", "restore", "check")
LOSSES = ("rollback", "restart", "down")


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run's whole life, by kind; those of `step` are only the steps that last."""

    seconds: dict[str, float]
    sessions: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def fraction(self) -> float:
        """The part of the time, from the first start to now, that went into steps that last."""
        return self.seconds.get("step", 0.0) / self.total if self.total else 0.0


class Ledger:
    """Keeps the book of one session. `began` is when it started, in seconds since the epoch.

    Without a directory (in all processes of a run but the first) it counts and writes nothing.
    """

    def __init__(self, directory: Path | None, *, began: float | None = None, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._path = directory / FILE if directory else None
        self._began = clock() if began is None else began
        self._earlier = _read_lines(self._path) if self._path else []
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._lost = dict.fromkeys(LOSSES, 0.0)
        self._kinds = ["start_up"]
        self._since = self._began
        self._at_step: dict[int, float] = {}  # seconds of steps when the session last stood there and wrote a line
        self._written = clock()
        self._separator = "\n"  # before the first line: a killed session may have left half of one

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """What happens inside is of this kind, but for what is of another kind inside it."""
        self._count()
        self._kinds.append(kind)
        try:
            yield
        finally:
            self._count()
            self._kinds.pop()

    def starts(self, step: int) -> None:
        """From here on time is of steps, which go on from `step`; settles what the session before this one lost."""
        self._count()
        self._kinds[0] = "step"
        if self._earlier:
            last = self._earlier[-1]
            session = [line for line in self._earlier if line["session"] == last["session"]]
            kept = [line for line in session if line["step"] <= step]
            self._lost["down"] = max(0.0, self._began - last["time"])
            self._lost["restart"] = max(0.0, _useful(last) - (_useful(kept[-1]) if kept else 0.0))
        self.write(step)

    def spent(self, kind: str) -> float:
        """Seconds of this session so far."""
        self._count()
        return self._seconds[kind]

    def reached(self, step: int) -> None:
        """A step is done; now and then this writes a line."""
        if self._clock() - self._written > SECONDS_BETWEEN_LINES:
            self.write(step)

    def rolled_back(self, step: int) -> None:
        """The steps after `step`, which was saved, do not count."""
        self._count()
        now = self._seconds["step"]
        if step in self._at_step:
            self._lost["rollback"] += now - self._at_step[step]
        else:  # to before this session: nothing of it lasts
            self._lost["rollback"] = now
        self._at_step = {earlier: at for earlier, at in self._at_step.items() if earlier < step}
        self.write(step)

    def write(self, step: int) -> None:
        """A line as of now. Raises ValueError when it cannot be written."""
        self._count()
        self._written = self._clock()
        self._at_step[step] = self._seconds["step"]
        if self._path is None:
            return
        line = {
            "session": self._began,
            "time": self._written,
            "step": step,
            "seconds": {kind: round(spent, 3) for kind, spent in self._seconds.items()},
            "lost": {kind: round(spent, 3) for kind, spent in self._lost.items()},
        }
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(self._separator + json.dumps(line) + "\n")
        except OSError as error:
            raise ValueError(
                f"could not write {self._path} ({error.strerror}): free space or fix the path, then run the same "
                "command to resume"
            ) from error
        self._separator = ""

    def _count(self) -> None:
        now = self._clock()
        self._seconds[self._kinds[-1]] += max(0.0, now - self._since)
        self._since = now


def read_goodput(directory: Path) -> Goodput | None:
    """The whole life of a run so far, None before its first line. Half a last line of a killed session is left out."""
    last_of: dict[float, dict[str, Any]] = {line["session"]: line for line in _read_lines(Path(directory) / FILE)}
    if not last_of:
        return None
    seconds = dict.fromkeys((*KINDS, *LOSSES), 0.0)
    for line in last_of.values():
        for kind, spent in (*line["seconds"].items(), *line["lost"].items()):
            seconds[kind] = seconds.get(kind, 0.0) + spent
    seconds["step"] = max(0.0, seconds["step"] - seconds["rollback"] - seconds["restart"])
    return Goodput(seconds, len(last_of))


def _useful(line: dict[str, Any]) -> float:
    return line["seconds"]["step"] - line["lost"]["rollback"]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    read = []
    for line in lines:
        try:
            read.append(json.loads(line))
        except ValueError:  # of a session that was killed while it wrote, or the empty line before a session's first
            continue
    return read
