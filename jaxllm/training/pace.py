"""What the processes of a run tell each other between steps: requests to stop, and how long each held the others up."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.parallel.agreement import Exchange


class Pulse:
    """The exchange of every few steps. All processes hear the same of one step, so they decide the same after it."""

    def __init__(self, every: int, *, processes: int | None = None, exchange: Exchange | None = None):
        self._every = every
        self._alone = (jax.process_count() if processes is None else processes) == 1
        self._exchange = exchange or Exchange()
        self.rows: np.ndarray | None = None  # [processes, 3]: request, input seconds, probe seconds; as last heard

    def agree(self, step: int, request: int, input_seconds: float, probe_seconds: float) -> int:
        """The signal to stop for after this step, 0 if none: alone the own request at once, else that of any process
        as told after the step before."""
        numbers = (float(request), input_seconds, probe_seconds)
        if self._alone:
            self.rows = np.asarray([numbers], np.float32)
            return request
        heard = 0
        if self._exchange.pending:
            self.rows = self._exchange.receive()
            heard = int(self.rows[:, 0].max())
        if not heard and step % self._every == 0:
            self._exchange.send(numbers)
        return heard


def pace_report(rows: np.ndarray) -> dict[str, Any]:
    """Who is slow, from [processes, 3] rows of a `Pulse`.

    In a synchronous step everyone waits for the slowest, so step times are alike on all hosts. Compared is what is a
    host's own: the seconds its input takes per step, and those its devices need for a fixed piece of work.
    """
    report: dict[str, Any] = {}
    for column, name in ((1, "input"), (2, "probe")):
        seconds = rows[:, column].astype(float)
        median = statistics.median(seconds)
        slowest = int(seconds.argmax())
        report |= {
            f"{name}_slowest": slowest,
            f"{name}_seconds": round(float(seconds[slowest]), 6),
            f"{name}_median": round(median, 6),
            f"{name}_ratio": round(float(seconds[slowest]) / median, 3) if median else None,
        }
    return report


class Probe:
    """A fixed piece of work for each device of this process, without communication."""

    def __init__(self):
        size, self._turns = (256, 4) if jax.default_backend() == "cpu" else (4096, 16)
        ones = np.full((size, size), 1 / size, np.float32)
        self._matrices = [jax.device_put(jnp.asarray(ones, jnp.bfloat16), d) for d in jax.local_devices()]
        self._work = jax.jit(lambda x: jax.lax.fori_loop(0, self._turns, lambda _, y: y @ x, x))
        for matrix in self._matrices:
            self._work(matrix).block_until_ready()  # compilation is no part of it

    def seconds(self, after: Any) -> float:
        """Of the slowest device, one after another, once `after` (arrays in flight) is done."""
        jax.block_until_ready(after)
        return max(self._time(matrix) for matrix in self._matrices)

    def _time(self, matrix: jax.Array) -> float:
        start = time.perf_counter()
        self._work(matrix).block_until_ready()
        return time.perf_counter() - start
