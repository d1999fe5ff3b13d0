"""A trace of a few steps, for TensorBoard's profile plugin or perfetto."""

from __future__ import annotations

from pathlib import Path

import jax

# The first steps after compilation warm caches and allocators; the trace starts behind them and stays small enough to
# open.
FIRST, COUNT = 5, 5


class Profile:
    """Traces steps FIRST .. FIRST + COUNT - 1 of this session into a directory; does nothing unless enabled."""

    def __init__(self, directory: Path, *, enabled: bool):
        self.directory, self.enabled = directory, enabled
        self._seen = 0
        self._tracing = False

    def before(self, step: int) -> None:
        if self.enabled and self._seen == FIRST:
            jax.profiler.start_trace(str(self.directory))
            self._tracing = True
        elif self._tracing and self._seen == FIRST + COUNT:
            self.stop()
        self._seen += 1

    def stop(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
