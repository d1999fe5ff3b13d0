"""Where numbers of a run go: `metrics.jsonl`, one object a line, and TensorBoard event files beside it."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

FLUSH_SECONDS = 30  # how far TensorBoard, which looks as often, may lag behind


class MetricsLog:
    """Appends rows; each is with the operating system when `write` returns, so a killed run loses none it had logged.

    Use as a context manager. Raises ValueError when something cannot be written.
    """

    def __init__(self, directory: Path):
        from tensorboardX.event_file_writer import EventsWriter

        self.path = directory / "metrics.jsonl"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed in __exit__
        board = directory / "tensorboard"
        board.mkdir(exist_ok=True)
        # The writer itself, not tensorboardX's thread around it: that dies of a full disk, and the run then waits for
        # it forever.
        self._board = EventsWriter(str(board / "events"), f".{os.getpid()}")
        self._flushed = 0.0

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self._file.close()
            self._board.close()
        except OSError as failure:
            if error is None:  # else the error that ends the run says more than its echo here
                raise self._unwritable(failure) from failure

    def write(self, row: dict[str, Any]) -> None:
        line = (json.dumps({name: _json_value(value) for name, value in row.items()}) + "\n").encode()
        try:
            while line:
                line = line[self._file.write(line) :]
            if "event" not in row:
                self._write_board(row)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write_board(self, row: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        ]
        now = time.time()
        self._board.write_event(Event(wall_time=now, step=row["step"], summary=Summary(value=values)))
        if now - self._flushed > FLUSH_SECONDS:
            self._board.flush()
            self._flushed = now

    def offset(self) -> int:
        """Bytes written so far; a checkpoint remembers it."""
        return self._file.seek(0, 2)

    def truncate(self, offset: int) -> int:
        """Drop what was logged after a checkpoint, because those steps are run again; returns the bytes dropped."""
        surplus = self.offset() - offset
        if surplus > 0:
            self._file.truncate(offset)
        return max(surplus, 0)

    def _unwritable(self, error: OSError) -> ValueError:
        return ValueError(
            f"could not log to {self.path.parent} ({error.strerror}): free space or fix the path, "
            "then run the same command to resume"
        )


class Unlogged:
    """For all processes of a run but the first, which logs for them."""

    def __enter__(self) -> Unlogged:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Nothing was opened."""

    def write(self, row: dict[str, Any]) -> None:
        """Nothing is written."""

    def offset(self) -> int:
        return 0

    def truncate(self, offset: int) -> int:
        return 0


def _json_value(value: Any) -> Any:
    """JSON has no infinity and no NaN; they are logged by name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
