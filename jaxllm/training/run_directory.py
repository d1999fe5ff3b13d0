"""A run's directory: who may write to it, what it was configured with, where things lie in it."""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import replace
from pathlib import Path

import jax
from etils import epath

from jaxllm import config as configs
from jaxllm.parallel.agreement import barrier, gather, tell_all
from jaxllm.training.experiment import Experiment

# What may differ between the sessions of one run: how long, how observed, how saved, on which devices. The rest defines
# it.
RESUMABLE = (
    "name",
    "training.steps",
    "training.eval_every",
    "training.eval_batches",
    "training.remat",
    "training.offload_optimizer",
    "checkpoints",
    "recovery",
    "faults",
    "mesh",
    "data.path",
    "data.read_threads",
    "data.prefetch_batches",
    "data.device_prefetch",
)


class RunDirectory:
    """The directory of a run, held by one process at a time. Use as a context manager.

    Of a run's several processes one leads: it holds and writes, the others read. Raises ValueError when the directory
    cannot be written, or when another run holds it.
    """

    def __init__(self, path: str | Path, *, leads: bool = True):
        self.path, self._leads = Path(path), leads
        self._lock = None
        if leads:
            self._hold()

    def _hold(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "lock", "a+")  # noqa: SIM115 - held as long as the run
            # The kernel drops this lock when the process ends, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._lock.fileno(), 0)
            os.write(self._lock.fileno(), str(os.getpid()).encode())
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise ValueError(
                f"another run (process {owner}) is using {self.path}: wait for it, stop it, or choose another --run DIR"
            ) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._lock is not None:
            self._lock.close()

    def follow(self) -> None:
        """Get what process 0 has prepared, where the directory is not one that all share."""

    def push(self) -> None:
        """Bring what was written to where it is kept; in a directory it already is."""

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def settle_config(self, experiment: Experiment) -> Experiment:
        """Write the resolved config, or check it against the one the run was started with.

        A vocabulary size of 0 in `experiment` takes the recorded one. Raises ValueError naming each difference that
        would make it another run.
        """
        if self.config_file.exists():
            recorded = read_config(self.config_file)
            if not experiment.model.vocab_size:
                experiment = replace(experiment, model=replace(experiment.model, vocab_size=recorded.model.vocab_size))
            conflicts = [
                f"  {path}: was {before!r}, is {after!r}"
                for path, before, after in configs.differences(recorded, experiment)
                if not any(path == allowed or path.startswith(f"{allowed}.") for allowed in RESUMABLE)
            ]
            if conflicts:
                listed = "\n".join(conflicts)
                raise ValueError(
                    f"{self.path} holds a run with another configuration:\n{listed}\n"
                    "resume it with its own settings, or start a new run with --run DIR"
                )
        if not self._leads:
            return experiment
        temporary = self.config_file.with_suffix(".json.tmp")
        try:
            temporary.write_text(configs.to_json(experiment) + "\n")
            os.replace(temporary, self.config_file)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return experiment


def read_config(path: str | Path) -> Experiment:
    """The experiment in a `config.json`. Raises ValueError when it is missing, malformed or from a newer version."""
    path = epath.Path(path)
    if not path.is_file():
        raise ValueError(f"{path.parent} is no run directory: it holds no {path.name}")
    return configs.from_json(path.read_text(), Experiment, source=str(path))


def refuse_private_directory(path: Path) -> None:
    """Raises ValueError, in every process of a job, where some do not see what process 0 writes to `path`."""
    if jax.process_count() == 1:
        return
    token = tell_all("run directory", secrets.token_hex(8))
    mark = path / f".seen-by-all-{token}"
    if jax.process_index() == 0:
        mark.touch()
    barrier("run directory marked")
    seen = gather(mark.exists())[:, 0]
    if jax.process_index() == 0:
        mark.unlink()
    if not seen.all():
        blind = ", ".join(str(process) for process, sees in enumerate(seen) if not sees)
        raise ValueError(
            f"process {blind} does not see the run directory {path} of process 0: a run on several hosts needs a "
            "directory that all of them share; choose one with --run DIR"
        )


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"the run directory {path} cannot be written ({error.strerror}): choose another with --run DIR")
