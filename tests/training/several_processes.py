"""Real processes on this machine that train the tiny job together, each with its own fake devices.

Run as a program it is one of them: DIRECTORY DEVICES and JSON of what it is asked; the launcher's variables say which.
"""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass
class Ended:
    """How a process ended: exit status, what it printed, seconds it took."""

    status: int
    said: str
    seconds: float


class Together:
    """Starts `count` processes with `devices` fake devices each; `wait` gives how they ended."""

    def __init__(self, directory: Path, count: int, devices: int, requests: list[dict], **variables: str):
        port = free_port()
        self.started = time.monotonic()
        self.processes = []
        for process, request in enumerate(requests):
            environment = os.environ | {
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                "JAXLLM_COORDINATOR": f"127.0.0.1:{port}",
                "JAXLLM_PROCESSES": str(count),
                "JAXLLM_PROCESS": str(process),
                "JAXLLM_HOST": f"host-{process}",
                **variables,
            }
            command = [sys.executable, __file__, str(directory), json.dumps(request)]
            self.processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )

    def wait(self, seconds: float = 120) -> list[Ended]:
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def work(directory: Path, request: dict) -> int:
    import signal

    import tiny

    from jaxllm.cli.main import main
    from jaxllm.config import from_json
    from jaxllm.parallel.local_rows import find_readers
    from jaxllm.parallel.mesh import MeshConfig, make_mesh
    from jaxllm.parallel.sharding import Layout
    from jaxllm.training.experiment import FaultConfig
    from jaxllm.training.loop import Trainer
    from jaxllm.training.run_directory import RunDirectory, refuse_private_directory

    class Part(tiny.Batches):
        """This process's rows of the tiny batches, as a loader gives them."""

        def __init__(self, readers, **options):
            super().__init__(**options)
            self.rows = list(readers.rows)

        def __next__(self):
            if self.next == request.get("killed_at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.next == request.get("refuses_at"):
                raise ValueError("no more text")
            return {name: array[self.rows] for name, array in super().__next__().items()}

    def train(arguments: list[str]) -> int:
        from jaxllm.parallel.start_up import joined, refuse_different_configs

        with joined() as process:
            import jax

            asked = request.get("experiment", {})
            faults = FaultConfig(**asked.pop("faults", {}))
            mesh = MeshConfig(**asked.pop("mesh", {}))
            config = replace(tiny.experiment(mesh=mesh, **asked), faults=faults)
            refuse_different_configs({"training": {"seed": request.get("seed", 0)}})
            readers = find_readers(Layout(make_mesh(mesh)).sharding("batch"), 8)
            with RunDirectory(directory, leads=process == 0) as run:
                refuse_private_directory(Path(request.get("sees", run.path)))
                job = tiny.job(config, Part(readers, stopped_at=request.get("stopped_at")))
                validation = [{n: a[list(readers.rows)] for n, a in batch.items()} for batch in job.validation]
                reporter = tiny.Recorder()
                outcome = Trainer(replace(job, validation=validation), directory, reporter).run()
            print(
                json.dumps(
                    {
                        "process": process,
                        "devices": jax.device_count(),
                        "step": outcome.step,
                        "stopped_by": outcome.stopped_by,
                        "said": reporter.said,
                        "rows": list(readers.rows),
                        "losses": [row["loss"] for row in reporter.rows if "loss" in row],
                    }
                ),
                flush=True,
            )
        return 0

    del from_json
    sys.modules["several_processes_verb"] = type(sys)("several_processes_verb")
    sys.modules["several_processes_verb"].run = train
    from jaxllm.cli import main as command

    command.VERBS["work"] = "several_processes_verb"
    return main(["work"])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(work(Path(sys.argv[1]), json.loads(sys.argv[2])))
