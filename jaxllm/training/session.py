"""What is watched during one session of a run: time, hangs, the pace of the hosts, requests to stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxllm.training.experiment import FaultConfig
from jaxllm.training.goodput import Ledger, read_goodput
from jaxllm.training.job import Reporter
from jaxllm.training.maintenance import MaintenanceNotice, on_google_cloud
from jaxllm.training.pace import Probe, Pulse, pace_report
from jaxllm.training.signals import StopRequest
from jaxllm.training.watchdog import Watchdog


class Session:
    """Use as a context manager around all that a session does. `began`: when it did, in seconds since the epoch."""

    def __init__(self, directory: Path, config: FaultConfig, reporter: Reporter, *, began: float | None = None):
        self._config, self._reporter, self._directory = config, reporter, directory
        self._leads = jax.process_index() == 0
        self._ledger = Ledger(directory if self._leads else None, began=began)
        self._watchdog = Watchdog(config, directory, jax.process_index(), self._alarm)
        self._stop = StopRequest()
        self._pulse = Pulse(config.agree_every)
        self._probe: Probe | None = None
        self._probe_seconds = 0.0
        self._first_step = 0
        self._at_report = (0, 0.0)  # step and input seconds when the pace was last told

    def __enter__(self) -> Session:
        with ExitStack() as stack:
            stack.enter_context(self._stop)
            stack.enter_context(self._watchdog)
            asked, cloud = self._config.maintenance, self._config.maintenance != "off"
            if asked == "on" or (cloud and on_google_cloud()):
                stack.enter_context(MaintenanceNotice(self._stop.ask))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._stack.__exit__(kind, error, traceback)

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """What happens inside is accounted as this kind (`goodput.KINDS`), and is no step that could hang."""
        with self._ledger.during(kind), self._watchdog.during(kind):
            yield

    def starts(self, step: int) -> None:
        self._first_step = step
        self._at_report = step, self._ledger.spent("input")
        self._ledger.starts(step)

    def step_done(self, step: int) -> None:
        """The metrics of a step have come."""
        self._watchdog.step_done()
        self._ledger.reached(step)

    def saved(self, step: int) -> None:
        self._ledger.write(step)

    def rolled_back(self, step: int) -> None:
        self._ledger.rolled_back(step)

    def stop_for(self, step: int) -> signal.Signals | None:
        """What all processes stop for after this step, None to go on."""
        since, spent = self._at_report
        waited = (self._ledger.spent("input") - spent) / max(1, step - since)
        number = self._pulse.agree(step, int(self._stop.signal or 0), waited, self._probe_seconds)
        if number and self._stop.notice:
            self._reporter.say(f"this machine will be taken away ({self._stop.notice}): saving")
        return signal.Signals(number) if number else None

    def pace(self, step: int, in_flight: Any) -> dict[str, Any] | None:
        """Every `pace_every` steps of a run on several hosts, a row for the log about the slowest of them."""
        every = self._config.pace_every
        if not every or step % every or jax.process_count() == 1:
            return None
        with self.during("check"):
            self._probe = self._probe or Probe()
            self._probe_seconds = self._probe.seconds(in_flight)
        rows = self._pulse.rows
        self._at_report = step, self._ledger.spent("input")
        # The first report has no measurement of the devices yet: those are heard of in the exchange that follows.
        return None if rows is None else {"event": "pace", "step": step, **pace_report(rows)}

    def closing_row(self, step: int) -> dict[str, Any] | None:
        """For the log, when the session has done any step: where the seconds of the run's whole life went."""
        self._ledger.write(step)
        goodput = read_goodput(self._directory) if self._leads else None
        if goodput is None or step == self._first_step:
            return None
        seconds = {kind: round(spent, 1) for kind, spent in goodput.seconds.items() if spent}
        return {
            "event": "goodput",
            "step": step,
            "goodput": round(goodput.fraction, 4),
            "sessions": goodput.sessions,
            "seconds_of": seconds,
        }

    def _alarm(self, message: str) -> None:
        """Every process says it for itself: which of them hang is the news."""
        print(message, file=sys.stderr, flush=True)
