"""A run kept in a bucket: `--run gs://BUCKET/run`, or `s3://`.

An object store can neither append to a file nor lock one. So checkpoints go to the bucket directly, and all else lies
in a folder of the machine (the stage), where a run appends to its log as always. What a resumed run needs of it is
copied to the bucket before each checkpoint and at the end, and fetched by whichever machine goes on with it. The corpus
is not copied: each machine prepares it again from the text.

A lease stands in for the lock: an object that says who holds the run and until when, renewed while it runs. The store
offers no test-and-set here, so of two runs that start in the same second both may write one; each reads it again after
a moment, and goes on only if it is its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
from etils import epath

from jaxllm.parallel.fingerprint import host_name
from jaxllm.training.run_directory import RunDirectory

KEPT = ("config.json", "metrics.jsonl", "time.jsonl", "identity", "report.md", "loss.png")
LEASE_SECONDS = 120.0
SECOND_LOOK_SECONDS = 1.0


def is_remote(path: str | os.PathLike) -> bool:
    return "://" in str(path)


class RemoteRunDirectory(RunDirectory):
    """As `RunDirectory`, for an address; `path` is the stage. The leading process holds the lease and copies."""

    def __init__(self, address: str, *, leads: bool = True, stage: Path | None = None, lease: Lease | None = None):
        self.remote = epath.Path(address)
        name = hashlib.sha256(str(address).encode()).hexdigest()[:12]
        root = Path(os.environ.get("JAXLLM_STAGE") or Path(tempfile.gettempdir()) / "jaxllm")
        self._lease = (lease or Lease(self.remote / "lease.json")) if leads else None
        try:
            if self._lease:
                self._lease.take()
            super().__init__(stage or root / f"{self.remote.name}-{name}-{jax.process_index()}", leads=leads)
        except OSError as error:
            raise ValueError(f"the run directory {address} cannot be written ({error}): choose another") from error
        if leads:
            self.fetch()

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.push()
        finally:
            if self._lease:
                self._lease.give_back()
            super().__exit__(kind, error, traceback)

    @property
    def checkpoints(self) -> epath.Path:
        return self.remote / "checkpoints"

    def push(self) -> None:
        """Copy what a machine that goes on with the run will need. An object is there whole or not at all."""
        if not self._leads:
            return
        for name in KEPT:
            if (self.path / name).is_file():
                (self.remote / name).write_bytes((self.path / name).read_bytes())
        if self.tokenizer.is_dir():
            (self.remote / "tokenizer").mkdir(parents=True, exist_ok=True)
            for file in self.tokenizer.iterdir():
                (self.remote / "tokenizer" / file.name).write_bytes(file.read_bytes())

    def fetch(self) -> None:
        """Make the stage what the bucket holds. The stage of a run that the bucket does not know is emptied."""
        if not (self.remote / "config.json").exists():
            for stale in self.path.iterdir():
                if stale.is_dir():
                    shutil.rmtree(stale)
                elif stale.name != "lock":
                    stale.unlink()
            return
        copy_small_files(self.remote, self.path)

    def follow(self) -> None:
        if self._leads:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self.fetch()


def copy_small_files(remote: epath.Path, here: Path) -> None:
    """Everything that a run in a bucket holds beside its checkpoints."""
    for name in KEPT:
        if (remote / name).exists():
            (here / name).write_bytes((remote / name).read_bytes())
    if (remote / "tokenizer").exists():
        (here / "tokenizer").mkdir(exist_ok=True)
        for file in (remote / "tokenizer").iterdir():
            (here / "tokenizer" / file.name).write_bytes(file.read_bytes())


class Lease:
    """Holds an object until `give_back`, renewing it in a thread. `pause` is a sleep."""

    def __init__(
        self,
        path: epath.Path,
        *,
        seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ):
        self._path, self._seconds, self._clock, self._pause = path, seconds, clock, pause
        self._owner = f"process {os.getpid()} on {host_name()}, {secrets.token_hex(4)}"
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Waits for a lease that is not renewed to run out, as after a crash. Raises ValueError if it is renewed."""
        seen = self._read()
        if seen and seen["until"] > self._clock():
            self._pause(seen["until"] - self._clock() + SECOND_LOOK_SECONDS)
            now = self._read()
            if now and now["until"] > seen["until"]:
                raise ValueError(
                    f"another run ({now['owner']}) is using {self._path.parent}: wait for it, stop it, or choose "
                    "another --run"
                )
        self._write()
        self._pause(SECOND_LOOK_SECONDS)
        holder = self._read()
        if holder is None or holder["owner"] != self._owner:
            other = holder["owner"] if holder else "unknown"
            raise ValueError(f"another run ({other}) has just begun to use {self._path.parent}: choose another --run")
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def give_back(self) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 3):
            with contextlib.suppress(OSError):  # the next attempt comes before the lease ends
                self._write()

    def _read(self) -> dict | None:
        try:
            return json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"owner": self._owner, "until": self._clock() + self._seconds}))
