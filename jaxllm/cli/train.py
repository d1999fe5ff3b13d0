"""Train an experiment, resume a run, or replay one from its config.json."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HELP = """\
usage: jaxllm train EXPERIMENT [--run DIR] [--profile] [--a.b=c ...]

EXPERIMENT is one of
  NAME              of a file in experiments/
  FILE.py           defining experiment(), which returns the run's config
  RUN/config.json   of an earlier run, replayed into a new directory, RUN-replay by default
  RUN               the directory of an earlier run, which is resumed

  --run DIR         where the run is kept, runs/NAME by default, or gs://BUCKET/NAME; an existing run is resumed
  --profile         write a trace of a few steps to DIR/profile
  --a.b=c           change a field of the config; jaxllm train EXPERIMENT --help lists them

experiments: {experiments}"""


def run(arguments: list[str]) -> int:
    from jaxllm.config import experiments

    if not arguments or arguments[0] in ("--help", "-h"):
        text = HELP.format(experiments=", ".join(experiments()) or "none here")
        print(text, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise ValueError(f"the experiment comes first: jaxllm train EXPERIMENT {' '.join(arguments)}")

    began = time.time()
    from jaxllm.parallel.start_up import joined

    # First, since an experiment file may look at the devices, which are those of all hosts.
    with joined() as process:
        return _train(arguments, process, began)


def _train(arguments: list[str], process: int, began: float) -> int:
    config, directory, profile = plan_run(arguments[0], arguments[1:])

    from jaxllm.cli.progress import reporter, silence
    from jaxllm.parallel.start_up import refuse_different_configs
    from jaxllm.pipeline.pretrain import pretrain

    refuse_different_configs(asdict(config))
    with reporter() if process == 0 else silence() as report:
        outcome = pretrain(config, directory, report, profile=profile, began=began).outcome
    if process == 0:
        print(f"{directory}: step {outcome.step} of {outcome.steps}{_score(outcome)}")
    return 0


def plan_run(source: str, arguments: list[str]) -> tuple[Any, Path | str, bool]:
    """(config, run directory, whether to profile). Raises ValueError if `source` names nothing that can be run."""
    from jaxllm.config import apply_overrides, load_experiment
    from jaxllm.training.experiment import Experiment
    from jaxllm.training.run_directory import read_config

    run_directory, profile, overrides = _own_options(arguments)
    path = Path(source)
    if (path / "config.json").is_file():
        if run_directory not in (None, path):
            raise ValueError(
                f"{path} is a run, which would be resumed where it is; "
                f"to replay it elsewhere: jaxllm train {path / 'config.json'} --run {run_directory}"
            )
        config, default = read_config(path / "config.json"), path
    elif path.suffix == ".json":
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        original = path.parent if path.parent.name not in ("", "..") else path.resolve().parent
        config, default = read_config(path), original.with_name(f"{original.name}-replay")
    elif path.is_dir() and len(path.parts) > 1:
        raise ValueError(f"{path} holds no config.json, so it is no run that could be resumed")
    else:
        config, default = load_experiment(source, Experiment), None
    config = apply_overrides(config, overrides, prog=f"jaxllm train {source}")
    return config, run_directory or default or Path("runs") / config.name, profile


def _own_options(arguments: list[str]) -> tuple[Path | str | None, bool, list[str]]:
    """(run directory, profile, what is left for the config)."""
    run_directory, profile, rest = None, False, []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--profile":
            profile = True
        elif argument == "--run" or argument.startswith("--run="):
            value = argument.removeprefix("--run=") if "=" in argument else next(remaining, "")
            if not value:
                raise ValueError("--run needs the name of a directory: --run DIR")
            run_directory = value if "://" in value else Path(value)  # a Path would make one slash of two
        else:
            rest.append(argument)
    return run_directory, profile, rest


def _score(outcome: Any) -> str:
    if outcome.val_loss is None:
        return ""
    return f", validation loss {outcome.val_loss:.4f} nats per token, {outcome.val_bpb:.4f} bits per byte"
