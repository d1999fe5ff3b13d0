"""A run's directory: who may write to it, what it was configured with, where things lie in it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

from jaxllm import config as configs
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
    "mesh",
    "data.path",
    "data.read_threads",
    "data.prefetch_batches",
)


class RunDirectory:
    """The directory of a run, held by one process at a time. Use as a context manager.

    Raises ValueError when the directory cannot be written, or when another run holds it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
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
        self._lock.close()

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
        temporary = self.config_file.with_suffix(".json.tmp")
        try:
            temporary.write_text(configs.to_json(experiment) + "\n")
            os.replace(temporary, self.config_file)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return experiment


def read_config(path: str | Path) -> Experiment:
    """The experiment in a `config.json`. Raises ValueError when it is missing, malformed or from a newer version."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.parent} is no run directory: it holds no {path.name}")
    return configs.from_json(path.read_text(), Experiment, source=str(path))


def _unwritable(path: Path, error: OSError) -> ValueError:
    return ValueError(f"the run directory {path} cannot be written ({error.strerror}): choose another with --run DIR")
