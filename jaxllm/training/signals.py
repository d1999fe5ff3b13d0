"""A request to stop, from the system, the cloud or a person, as a value that the loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """While in use, SIGTERM and the first Ctrl-C only leave a note here; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.notice = ""  # what a machine's maintenance notice said, where that is what asked
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker, a test) there is nothing to
        # install.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def ask(self, notice: str) -> None:
        """As SIGTERM would, from another thread: the machine said that it will be taken away."""
        self.notice, self.signal = notice, signal.SIGTERM

    def __bool__(self) -> bool:
        return self.signal is not None
