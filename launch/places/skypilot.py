"""Any cloud, Kubernetes or Slurm cluster that SkyPilot reaches.

Without --spot or --restarts the machines become the cluster --job, which stays until `delete`, unless --down. With them
it is a managed job: SkyPilot finds new machines when these are taken away, and the run goes on.
"""

from __future__ import annotations

import argparse
from typing import Any

from launch.manifest import drop_empty, to_yaml
from launch.request import COORDINATOR, PORT, PROCESS, PROCESSES, Request, add_restarts, add_spot, positive
from launch.script import command, needs, one_line, script, write_file
from launch.source import described, head
from launch.tpus import Slice, parse_slice
from launch.training import REPOSITORY, check_in_source, check_kept, check_shared

SKY = needs("sky", "pip install 'skypilot[gcp]', or another cloud's extra")

# SkyPilot sets these on every node. A TPU's hosts need none of it: JAX finds them by itself.
RENDEZVOUS = f"""\
export {COORDINATOR}="${{SKYPILOT_NODE_IPS%%$'\\n'*}}:{PORT}"
export {PROCESSES}="$SKYPILOT_NUM_NODES" {PROCESS}="$SKYPILOT_NODE_RANK"
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--gpus", metavar="KIND:N", help="of each node, such as H100:8")
    devices.add_argument("--tpu", metavar="KIND:TOPOLOGY", help="such as v6e:4x4")
    parser.add_argument("--nodes", type=positive, default=1, metavar="N", help="1 by default")
    parser.add_argument("--infra", metavar="WHERE", help="such as gcp/us-east5 or aws; the cheapest by default")
    parser.add_argument("--managed", action="store_true", help="a managed job even without --spot or --restarts")
    parser.add_argument("--down", action="store_true", help="give the machines back when the training has ended")
    parser.add_argument("--dirty", action="store_true", help="send the working tree as it is")
    add_spot(parser)
    add_restarts(parser, "when the training fails; machines that are taken away do not count")


def start(request: Request) -> str:
    """Write the task beside the logs and launch it."""
    options = request.options
    path = request.folder / "task.yaml"
    commit = head(options.dirty)
    text = to_yaml(task(request))
    if _managed(options):
        words = ("sky", "jobs", "launch", "--name", request.job, "--yes", path)
    else:
        words = ("sky", "launch", "--cluster", request.job, *(("--down",) if options.down else ()), "--yes", path)
    source = f"# source: {described(commit, options.dirty)}"
    return script(request.title, source, SKY, write_file(path, text), command(*words))


def task(request: Request) -> dict[str, Any]:
    """The task, by SkyPilot's YAML schema."""
    options, training = request.options, request.training
    tpu = parse_slice(options.tpu) if options.tpu else None
    _check(request, tpu)
    several = options.nodes > 1
    run = one_line(request.host_command("launch/host.sh", "run", "logs"))
    accelerator = "tpu" if tpu else "cuda" if options.gpus else "cpu"
    resources = {
        "infra": options.infra,
        "accelerators": f"tpu-{tpu.accelerator_type}:1" if tpu else options.gpus,
        "accelerator_args": {"runtime_version": tpu.generation.runtime} if tpu else None,
        "use_spot": True if options.spot else None,
        "job_recovery": {"max_restarts_on_errors": options.restarts} if options.restarts else None,
    }
    check_in_source(training)
    return drop_empty(
        {
            "name": request.job,
            "workdir": str(REPOSITORY),
            "num_nodes": options.nodes,
            "resources": resources,
            "setup": f"launch/host.sh install {accelerator}",
            "run": (RENDEZVOUS if several else "") + run,
        }
    )


def _check(request: Request, tpu: Slice | None) -> None:
    options, training = request.options, request.training
    if tpu and (tpu.generation.runtime is None or tpu != tpu.usual):
        raise ValueError(f"SkyPilot has TPUs by their Cloud TPU types, and {tpu} has none: launch/run gke")
    if tpu and options.nodes > 1:
        raise ValueError("several TPUs are joined by launch/run tpu-vm or gke with --slices; leave out --nodes")
    hosts = tpu.hosts if tpu else options.nodes
    check_shared(training, hosts, str(tpu) if tpu else f"--nodes {hosts}")
    if _managed(options):
        check_kept(training, "a managed job", "is gone with its machines")
    if options.down:
        check_kept(training, "--down", "is gone with its machines")


def _managed(options: argparse.Namespace) -> bool:
    return bool(options.managed or options.spot or options.restarts)


def _sky(cluster: tuple[str, ...], managed: tuple[str, ...]):
    def render(request: Request) -> str:
        words = managed if _managed(request.options) else cluster
        return script(request.title, SKY, command("sky", *(word.format(job=request.job) for word in words)))

    return render


VERBS = {
    "start": start,
    "status": _sky(("status", "{job}"), ("jobs", "queue")),
    "logs": _sky(("logs", "{job}"), ("jobs", "logs", "--name", "{job}")),
    "stop": _sky(("cancel", "--all", "--yes", "{job}"), ("jobs", "cancel", "--name", "{job}", "--yes")),
    "delete": _sky(("down", "--yes", "{job}"), ("jobs", "cancel", "--name", "{job}", "--yes")),
}
TRAINING_VERBS = ("start",)
