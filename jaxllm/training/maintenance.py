"""The notice that a cloud machine is about to be taken away, asked of its metadata server.

A spot or preemptible machine's end also comes as SIGTERM; maintenance of a TPU's host only shows here. Source: Google
Cloud, metadata `instance/maintenance-event`: NONE, MIGRATE_ON_HOST_MAINTENANCE (which a running program survives), or
TERMINATE_ON_HOST_MAINTENANCE; `instance/preempted`: FALSE or TRUE.
"""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

ADDRESS = "http://metadata.google.internal/computeMetadata/v1/instance/"
QUESTIONS = {  # each with the answers that mean: go on
    "maintenance-event": ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"),
    "preempted": ("FALSE",),
}
SECONDS_BETWEEN_LOOKS = 5.0

Fetch = Callable[[str], str]


def fetch_metadata(name: str) -> str:
    """One value of this machine's metadata. Raises OSError where there is no such server or value."""
    request = urllib.request.Request(ADDRESS + name, headers={"Metadata-Flavor": "Google"})
    # Proxies never stand between a machine and its own metadata.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as answer:
        return answer.read().decode().strip()


def on_google_cloud() -> bool:
    """Whether this machine is one of Google's, by what its firmware says; nothing is asked over the network."""
    try:
        return "Google" in Path("/sys/class/dmi/id/product_name").read_text()
    except OSError:
        return False


class MaintenanceNotice:
    """Asks every few seconds in a thread; calls `on_notice(what)` once. Use as a context manager.

    A server that does not answer is asked again: a notice can't be missed by one lost packet.
    """

    def __init__(
        self, on_notice: Callable[[str], None], *, fetch: Fetch = fetch_metadata, seconds: float = SECONDS_BETWEEN_LOOKS
    ):
        self._on_notice, self._fetch, self._seconds = on_notice, fetch, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="maintenance", daemon=True)

    def __enter__(self) -> MaintenanceNotice:
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            notice = self._ask()
            if notice:
                self._on_notice(notice)
                return
            self._over.wait(self._seconds)

    def _ask(self) -> str | None:
        for name, well in QUESTIONS.items():
            try:
                answer = self._fetch(name)
            except OSError:
                continue
            if answer not in well:
                return f"{name}: {answer}"
        return None
