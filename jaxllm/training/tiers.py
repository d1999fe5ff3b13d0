"""All checkpoints of a run as one: shared ones, kept for long, and local ones, written often."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxllm.parallel.agreement import tell_all
from jaxllm.training.checkpoints import CheckpointError, Checkpoints, Mismatch, Restored
from jaxllm.training.experiment import CheckpointConfig
from jaxllm.training.local_checkpoints import LocalCheckpoints
from jaxllm.training.state import TrainState

PROBE_BYTES = 1 << 20
SLOW_PROBE_SECONDS = 2.0  # a disk that takes longer for a MiB needs an hour for a model of a billion parameters


class Tiers:
    """Use as a context manager: leaving it waits for the last save. The shared ones lie in `checkpoints`.

    Raises CheckpointError before anything is computed when the directory can't be written to; one that is slow is told
    of through `say`.
    """

    def __init__(
        self,
        run: Path,
        checkpoints: epath.PathLike,
        config: CheckpointConfig,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._config, self._say, self._clock = config, say, clock
        self.shared = Checkpoints(checkpoints, config)
        self._probe(self.shared.directory)
        self.local = LocalCheckpoints(config.local_directory, run, _identity(run)) if config.local_every else None

    def __enter__(self) -> Tiers:
        self.shared.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.shared.__exit__(kind, error, traceback)

    def steps(self) -> list[int]:
        """Steps of the shared checkpoints, ascending."""
        return self.shared.steps()

    def save(self, state: TrainState, progress: dict[str, Any], val_loss: float | None = None) -> None:
        with self._timed(int(state.step), self.shared.directory):
            self.shared.save(state, progress, val_loss)

    def save_local(self, state: TrainState, progress: dict[str, Any]) -> None:
        with self._timed(int(state.step), self.local.directory):
            self.local.save(state, progress)

    def wait(self) -> None:
        self.shared.wait()

    def restore(self, target: TrainState) -> Restored | None:
        """The newest whole checkpoint of any tier, the same in every process; None where there is none.

        Raises as `Checkpoints.restore` does, unless a local one can be used.
        """
        if self.local is None:
            return self.shared.restore(target)
        candidates = self.local.common_steps()
        newest = max(self.shared.steps(), default=-1)
        found = self._restore_local([step for step in candidates if step > newest], target)
        if found is not None:
            return found
        failure, restored = None, None
        try:
            restored = self.shared.restore(target)
        except Mismatch:
            raise
        except CheckpointError as error:
            failure = error
        # Shared ones that were damaged make a local one the newest.
        reached = -1 if restored is None else restored.step
        found = self._restore_local([step for step in candidates if reached < step <= newest], target)
        if found is None and failure is not None:
            raise failure
        self.local.drop_after(reached if found is None else found.step)
        return found or restored

    def _restore_local(self, steps: list[int], target: TrainState) -> Restored | None:
        for step in reversed(steps):
            found = self.local.restore(step, target)
            if found is not None:
                self.local.drop_after(step)
                return Restored(*found, step, ())
            self._say(f"the local checkpoint of step {step} cannot be used by all hosts; trying the one before")
        return None

    @contextmanager
    def _timed(self, step: int, where: Any) -> Iterator[None]:
        start = self._clock()
        yield
        seconds = self._clock() - start
        if seconds > self._config.slow_seconds:
            self._say(
                f"the checkpoint of step {step} held up training for {seconds:.0f} s: {where} is slow, or "
                "checkpoints.every is too low for it"
            )

    def _probe(self, directory: epath.Path) -> None:
        path = directory / f".probe-{jax.process_index()}"
        start = self._clock()
        try:
            write_probe(path)
            path.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{directory} cannot be written ({error.strerror}): choose another run directory with --run DIR"
            ) from error
        seconds = self._clock() - start
        if seconds > SLOW_PROBE_SECONDS:
            self._say(
                f"writing {PROBE_BYTES >> 20} MiB to {directory} took {seconds:.1f} s: checkpoints will be slow there"
            )


def write_probe(path: epath.Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        if "://" not in str(path):  # an object is written when it is closed
            os.fsync(file.fileno())


def _identity(run: Path) -> str:
    """What tells this run from one that was in the same directory before it was emptied."""
    path = run / "identity"
    text = ""
    if jax.process_index() == 0:
        if not path.exists():
            path.write_text(secrets.token_hex(6))
        text = path.read_text()
    return tell_all("identity", text)
