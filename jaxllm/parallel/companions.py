"""Whether the other processes of a job still live, and what is done when one does not.

The connections of the roll call stay open. The kernel closes a dead process's end at once; a frozen machine, or one
that lost the network, falls silent instead. Process 0 hears all others and tells each of them what it heard.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxllm.parallel.roll_call import Line

FAILED = 1


def end_process(message: str, status: int) -> None:
    """Say why and end, whatever the other threads do: they may wait for ever in a collective."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        os.write(sys.stderr.fileno(), f"error: {message}\n".encode())
    os._exit(status)


class Companions:
    """Watches connections in a thread until `leave`; `on_loss(message, exit status)` is called from it, once.

    A companion is lost when its connection ends without a farewell, when it is silent for `seconds`, or when its
    farewell tells of an error.
    """

    def __init__(self, lines: list[Line], seconds: float, on_loss: Callable[[str, int], None] = end_process):
        self._lines = {line.socket: line for line in lines}
        self._seconds, self._on_loss = seconds, on_loss
        self._heard = dict.fromkeys(self._lines, time.monotonic())
        self._leaving = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="companions", daemon=True)
        self._thread.start()

    def leave(self, message: str = "", status: int = 0) -> None:
        """Say farewell: an empty message is a good one, any other ends the whole job with it."""
        if not self._leaving.is_set():
            self._leaving.set()
            self._tell({"leaving": message, "status": status})
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for connection in self._lines:
            connection.close()

    def _watch(self) -> None:
        beat = self._seconds / 5
        with selectors.DefaultSelector() as selector:
            for connection in self._lines:
                selector.register(connection, selectors.EVENT_READ)
            next_beat = time.monotonic()
            while not self._leaving.is_set() and selector.get_map():
                if time.monotonic() >= next_beat:
                    self._tell({"beat": 1})
                    next_beat = time.monotonic() + beat
                for key, _ in selector.select(timeout=min(beat, 0.2)):
                    loss = self._listen(self._lines[key.fileobj])
                    if loss is not None:
                        selector.unregister(key.fileobj)
                        del self._heard[key.fileobj]
                        if loss[0]:
                            self._lose(*loss)
                            return
                for connection, heard in self._heard.items():
                    if time.monotonic() - heard > self._seconds:
                        silence = f"{self._lines[connection]} has been silent for {self._seconds:g} s"
                        self._lose(f"{silence}: its machine or its network is gone", FAILED)
                        return

    def _listen(self, line: Line) -> tuple[str, int] | None:
        """(what happened, exit status) when a companion is gone, with an empty text when it is gone for good reason."""
        self._heard[line.socket] = time.monotonic()
        try:
            messages = line.take()
        except (OSError, ValueError) as error:
            return f"{line} is gone ({error}): it was killed, or its machine was", FAILED
        if messages is None:
            return f"{line} is gone: it was killed, or its machine was", FAILED
        for message in messages:
            if "lost" in message:
                return message["lost"], message["status"]
            if "leaving" in message:
                told = message["leaving"]
                return (f"{line} gave up: {told}" if told else ""), message["status"]
        return None

    def _lose(self, message: str, status: int) -> None:
        if self._leaving.is_set():
            return
        self._tell({"lost": message, "status": status})
        self._on_loss(message, status)

    def _tell(self, message: dict[str, Any]) -> None:
        with self._sending:
            for line in self._lines.values():
                with contextlib.suppress(OSError):  # who can't be told is heard of by `_listen`
                    line.send(message)
