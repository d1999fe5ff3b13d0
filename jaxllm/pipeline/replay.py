"""Steps of a run that is over or stopped, computed again from its directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxllm import tokenizers
from jaxllm.pipeline.pretrain import make_batches, make_job, open_prepared
from jaxllm.training.job import Reporter
from jaxllm.training.loop import Trainer
from jaxllm.training.replay import Replayed
from jaxllm.training.run_directory import RunDirectory, read_config
from jaxllm.training.shipped import checkpoint_steps


def replay_run(
    directory: str | Path, reporter: Reporter, *, start: int | None = None, steps: int | None = None
) -> Iterator[Replayed]:
    """`steps` steps after checkpoint `start`: by default those between the newest checkpoint and the one before.

    On the run's own mesh and kind of device. Raises ValueError when the run is going on, or has no such checkpoint or
    no two.
    """
    experiment = read_config(Path(directory) / "config.json")
    start, steps = choose_interval(checkpoint_steps(Path(directory) / "checkpoints"), start, steps)
    with RunDirectory(directory) as run:
        tokenizer = tokenizers.load(run.tokenizer)
        loader, validation = make_batches(experiment, open_prepared(experiment, tokenizer, run.data), tokenizer)
        with loader:
            trainer = Trainer(make_job(experiment, tokenizer, loader, validation), run.path, reporter)
            yield from trainer.replay(start, steps)


def choose_interval(saved: list[int], start: int | None, steps: int | None) -> tuple[int, int]:
    """(checkpoint, steps after it), from those saved and what was asked. Raises ValueError when that is not there."""
    if start is None and len(saved) < 2:
        raise ValueError(f"a replay goes from one checkpoint to the next, and the run has {saved or 'none'}")
    start = saved[-2] if start is None else start
    if start not in saved:
        raise ValueError(f"there is no checkpoint of step {start}; the run has {saved or 'none'}")
    if steps is None:
        later = [step for step in saved if step > start]
        if not later:
            raise ValueError(f"checkpoint {start} is the last: say how many steps to replay with --steps N")
        steps = later[0] - start
    if steps < 1:
        raise ValueError(f"--steps {steps}: expected at least 1")
    return start, steps
