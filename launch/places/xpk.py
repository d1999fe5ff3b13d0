"""TPUs of a GKE cluster that xpk made: `xpk workload create`, with its queues and priorities.

The image is built and pushed by launch/run container. JAX finds the hosts by the variables that GKE sets.
"""

from __future__ import annotations

import argparse

from launch.places.gke import IN_IMAGE, KUBECTL, follow, kubernetes_text
from launch.request import Request, add_restarts, add_spot, positive
from launch.script import assignments, command, needs, one_line, script
from launch.tpus import parse_slice
from launch.training import check_kept

XPK = needs("xpk", "pip install xpk")
PRIORITIES = ("very-low", "low", "medium", "high", "very-high")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", required=True, help="that xpk cluster create made")
    parser.add_argument("--tpu", metavar="KIND:TOPOLOGY", help="such as v5p:4x4x4; needed to start")
    parser.add_argument("--slices", type=positive, default=1, metavar="N", help="that many, joined by the network")
    parser.add_argument("--image", metavar="NAME", help="with its registry; needed to start")
    parser.add_argument("--project", help="the Google Cloud project; gcloud's own by default")
    parser.add_argument("--zone", help="of the cluster; gcloud's own by default")
    parser.add_argument("--priority", choices=PRIORITIES, help="medium by default")
    add_spot(parser, reserved="name")
    add_restarts(parser, "after a signal: preemption, or memory that ran out")
    parser.add_argument("--grace", type=positive, default=300, metavar="SECONDS", help="to save when stopped; 300")


def start(request: Request) -> str:
    """xpk workload create."""
    options = request.options
    if not options.tpu or not options.image:
        raise ValueError("a start needs --tpu KIND:TOPOLOGY, such as v5p:4x4x4, and --image NAME with its registry")
    tpu = parse_slice(options.tpu)
    check_kept(request.training, "a pod", "is gone when that ends")
    tier = ("--spot",) if options.spot else (f"--reservation={options.reserved}",) if options.reserved else ()
    words = [
        *("xpk", "workload", "create", f"--workload={request.job}", *_cluster(request)),
        f"--tpu-type={tpu.generation.accelerator}-{tpu.topology}",
        f"--num-slices={options.slices}",
        f"--docker-image={options.image}",
        f"--max-restarts={options.restarts}",
        f"--termination-grace-period-seconds={options.grace}",
        *((f"--priority={options.priority}",) if options.priority else ()),
        *tier,
        f"--command={_inner(request)}",
    ]
    return script(request.title, XPK, command(*words))


def _inner(request: Request) -> str:
    """The command of the pods, on one line, for xpk writes it into a manifest as it is. Its --env can't hold quotes."""
    words = [IN_IMAGE, "run", request.job, "-", "--", *request.training.words]
    return kubernetes_text(one_line([*assignments(request.environment), *words]))


def logs(request: Request) -> str:
    """Follow all pods, and keep what they print by pod; kubectl's current context is the cluster's, as xpk sets it."""
    request.options.context = request.options.namespace = None
    return script(request.title, KUBECTL, *follow(request, f"xpk.google.com/workload={request.job}"))


def status(request: Request) -> str:
    return script(
        request.title, XPK, command("xpk", "workload", "list", *_cluster(request), f"--filter-by-job={request.job}")
    )


def delete(request: Request) -> str:
    """Stop all pods, which save first, and forget the workload; the run stays in its bucket."""
    words = ("xpk", "workload", "delete", f"--workload={request.job}", *_cluster(request))
    return script(request.title, XPK, command(*words))


def _cluster(request: Request) -> tuple[str, ...]:
    options = request.options
    project = (f"--project={options.project}",) if options.project else ()
    zone = (f"--zone={options.zone}",) if options.zone else ()
    return (f"--cluster={options.cluster}", *project, *zone)


VERBS = {"start": start, "status": status, "logs": logs, "stop": delete, "delete": delete}
TRAINING_VERBS = ("start",)
