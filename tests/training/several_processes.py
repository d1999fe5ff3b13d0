"""Real processes on this machine that train the tiny job together, each with its own fake devices.

Run as a program it is one of them: DIRECTORY DEVICES and JSON of what it is asked; the launcher's variables say which.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

# Every process compiles everything for itself, which costs more than what is computed then.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclass
class Ended:
    """How a process ended: exit status, what it printed, seconds it took."""

    status: int
    said: str
    seconds: float


class Together:
    """Starts a process for each command, with `devices` fake devices each; `wait` gives how they ended."""

    def __init__(self, commands: list[list[str]], devices: int):
        port = free_port()
        self.started = time.monotonic()
        self.processes = []
        for process, command in enumerate(commands):
            environment = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
                "JAXLLM_COORDINATOR": f"127.0.0.1:{port}",
                "JAXLLM_PROCESSES": str(len(commands)),
                "JAXLLM_PROCESS": str(process),
                "JAXLLM_HOST": f"host-{process}",
            }
            self.processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )

    def wait(self, seconds: float = 300) -> list[Ended]:
        ended = []
        for process in self.processes:
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                for each in self.processes:
                    each.kill()
                raise
            ended.append(Ended(process.returncode, said, time.monotonic() - self.started))
        return ended


def tiny_runs(directory: Path, *requests: dict) -> list[list[str]]:
    """The commands of processes that train the tiny job, each with what is asked of it."""
    return [[sys.executable, __file__, str(directory), json.dumps(request)] for request in requests]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def work(directory: Path, request: dict) -> int:
    import jax
    import tiny

    from jaxllm.cli import main as command
    from jaxllm.parallel.local_rows import find_readers
    from jaxllm.parallel.mesh import make_mesh
    from jaxllm.parallel.sharding import Layout
    from jaxllm.parallel.start_up import joined, refuse_different_configs
    from jaxllm.training.loop import Trainer
    from jaxllm.training.run_directory import RunDirectory, refuse_private_directory

    class Part(tiny.Batches):
        """This process's rows of the tiny batches, as a loader gives them."""

        def __init__(self, readers, **options):
            super().__init__(**options)
            self.rows = list(readers.rows)

        def __next__(self):
            if self.next == request.get("killed_at"):
                time.sleep(1)  # until the others wait in the step
                os.kill(os.getpid(), signal.SIGKILL)
            return {name: array[self.rows] for name, array in super().__next__().items()}

    def train(arguments: list[str]) -> int:
        with joined() as process:
            asked = request.get("experiment", {})
            config = tiny.experiment(model=replace(tiny.MODEL, num_layers=1), **asked)
            refuse_different_configs(asdict(config))
            readers = find_readers(Layout(make_mesh(config.mesh)).sharding("batch"), 8)
            with RunDirectory(directory, leads=process == 0) as run:
                refuse_private_directory(run.path)
                job = tiny.job(config, Part(readers, stopped_at=request.get("stopped_at")))
                validation = [{n: a[list(readers.rows)] for n, a in batch.items()} for batch in job.validation]
                reporter = tiny.Recorder()
                outcome = Trainer(replace(job, validation=validation), directory, reporter).run()
            told = {
                "devices": jax.device_count(),
                "step": outcome.step,
                "stopped_by": outcome.stopped_by,
                "said": reporter.said,
                "rows": list(readers.rows),
                "losses": [row["loss"] for row in reporter.rows if "loss" in row],
            }
            print(json.dumps(told), flush=True)
        return 0

    # Through the command, for the exit statuses.
    verb = ModuleType("several_processes_verb")
    verb.run = train
    sys.modules[verb.__name__] = verb
    command.VERBS["work"] = verb.__name__
    return command.main(["work"])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(work(Path(sys.argv[1]), json.loads(sys.argv[2])))
