"""The tiny job as a program of its own, for tests that kill it: kill_target.py DIRECTORY [OPTIONS as JSON].

Options: `steps`, `every`, ... go to `tiny.experiment`; the rest say when to die or what to suffer:
`die_at` n: SIGKILL to itself at the n-th operation on files of its directory;
`terminate_at` n: SIGTERM to itself while batch n is made;
`pause` s: sleep at every batch, so that a test can strike between steps;
`linger` s: sleep before each rename and removal, so that a test can strike during a save;
`file_limit` n: no file may grow beyond n bytes, as on a full disk;
`poison` {n: w}: the weights of batch n.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import tiny

from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training import tiers
from jaxllm.training.experiment import RecoveryConfig
from jaxllm.training.loop import Trainer
from jaxllm.training.optimizers import OptimizerConfig
from jaxllm.training.run_directory import RunDirectory

NESTED = {"mesh": MeshConfig, "recovery": RecoveryConfig, "optimizer": OptimizerConfig}
OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}


class Batches(tiny.Batches):
    def __init__(self, *, poison=None, pause=0.0, terminate_at=None):
        super().__init__({int(n): weight for n, weight in (poison or {}).items()}, stopped_at=terminate_at)
        self.pause = pause

    def __next__(self):
        time.sleep(self.pause)
        return super().__next__()


class Aloud(tiny.Recorder):
    def say(self, message):
        print(message, flush=True)


def suffer(directory: Path, die_at: int, linger: float) -> None:
    """Watch this process's operations on files of `directory`. What tensorstore writes by itself is not among them."""
    inside = str(directory.resolve())
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event not in OPERATIONS:
            return
        within_a_tree_that_is_removed = event in ("os.remove", "os.rmdir") and arguments[1] >= 0
        if not (within_a_tree_that_is_removed or str(arguments[0]).startswith(inside)):
            return
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if linger and event in ("os.rename", "os.remove", "os.rmdir"):
            time.sleep(linger)

    sys.addaudithook(hook)


def experiment(options: dict):
    return tiny.experiment(**{name: NESTED[name](**v) if name in NESTED else v for name, v in options.items()})


def main(directory: str, options: str = "{}") -> int:
    options = json.loads(options)
    directory = Path(directory)
    suffering = {name: options.pop(name, 0) for name in ("die_at", "linger")}
    batches = Batches(**{name: options.pop(name) for name in ("poison", "pause", "terminate_at") if name in options})
    limit = options.pop("file_limit", None)
    config = experiment(options)
    try:
        with RunDirectory(directory) as run:
            run.settle_config(config)
            if any(suffering.values()):
                suffer(directory, **suffering)
            if limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            Trainer(tiny.job(config, batches), directory, Aloud()).run()
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    tiers.PROBE_BYTES = 1000  # a disk that is nearly full, or a small limit, is to be met by a checkpoint
    # TensorboardX imports torch where it finds it: two seconds of each short life, for nothing that is needed here.
    sys.modules["torch"] = None
    sys.exit(main(*sys.argv[1:]))
