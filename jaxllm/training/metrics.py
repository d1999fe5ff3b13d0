"""Where numbers of a run go: `metrics.jsonl`, one object a line, and TensorBoard event files beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends rows; each is on its way to the disk when `write` returns, so a killed run loses none it had logged."""

    def __init__(self, directory: Path):
        from tensorboardX import SummaryWriter

        self.path = directory / "metrics.jsonl"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed in close()
        self._board = SummaryWriter(str(directory / "tensorboard"), flush_secs=10)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write((json.dumps({name: _json_value(value) for name, value in row.items()}) + "\n").encode())
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(name, value, row["step"])

    def offset(self) -> int:
        """Bytes written so far; a checkpoint remembers it."""
        return self._file.seek(0, 2)

    def truncate(self, offset: int) -> int:
        """Drop what was logged after a checkpoint, because those steps are run again; returns the bytes dropped."""
        surplus = self.offset() - offset
        if surplus > 0:
            self._file.truncate(offset)
        return max(surplus, 0)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _json_value(value: Any) -> Any:
    """JSON has no infinity and no NaN; they are logged by name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
