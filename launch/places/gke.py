"""TPUs of a GKE cluster, through a JobSet: one job for each slice, one pod for each host.

The image is built and pushed by launch/run container. JAX finds the hosts by the variables that GKE sets. A run that is
refused (exit status 2) fails at once; after anything else --restarts begins all pods anew, and the run goes on.
"""

from __future__ import annotations

import argparse
import re
from pathlib import PurePosixPath
from typing import Any

from launch.manifest import drop_empty, to_yaml
from launch.request import Request, add_restarts, add_spot, positive
from launch.script import BY_HOST, command, needs, quote, script, write_file
from launch.tpus import Slice, parse_slice
from launch.training import check_kept

KUBECTL = needs("kubectl", "https://kubernetes.io/docs/tasks/tools")
# `jaxllm train` exits with it for what can't be trained however often one tries.
REFUSED = 2
IN_IMAGE = "/opt/jaxllm/launch/host.sh"
# 8471: between the hosts of a slice; 8431: the TPU's metrics; both from GKE's documentation.
PORTS = (8471, 8431)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tpu", metavar="KIND:TOPOLOGY", help="such as v5p:4x4x4; needed to start")
    parser.add_argument("--slices", type=positive, default=1, metavar="N", help="that many, joined by the network")
    parser.add_argument("--image", metavar="NAME", help="with its registry; needed to start")
    parser.add_argument("--context", help="of kubectl, which names the cluster; the current one by default")
    parser.add_argument("--namespace", help="of the cluster; that of the context by default")
    add_spot(parser, reserved="name")
    add_restarts(parser, "after any failure but a refused run")
    parser.add_argument("--queue", metavar="NAME", help="the local queue of Kueue")
    parser.add_argument("--service-account", metavar="NAME", help="of Kubernetes, which may use the bucket")
    parser.add_argument("--claim", metavar="CLAIM=PATH", help="mount a volume that all hosts share, such as Filestore")
    parser.add_argument("--chips-per-host", type=positive, metavar="N", help="where the node pool has other machines")
    parser.add_argument("--grace", type=positive, default=300, metavar="SECONDS", help="to save when stopped; 300")
    parser.add_argument("--privileged", action="store_true", help="for nodes older than GKE 1.28")


def start(request: Request) -> str:
    """Write the manifest beside the logs and apply it."""
    path = request.folder / "jobset.yaml"
    text = to_yaml(jobset(request))
    hints = [f"launch/run gke {verb} --job {request.job}" for verb in ("logs", "status", "delete")]
    told = command("echo", f"{request.job} is submitted; {', '.join(hints)}")
    return script(request.title, KUBECTL, write_file(path, text), _kubectl(request, "apply", "--filename", path), told)


def jobset(request: Request) -> dict[str, Any]:
    """The JobSet, of jobset.x-k8s.io/v1alpha2."""
    options = request.options
    if not options.tpu or not options.image:
        raise ValueError("a start needs --tpu KIND:TOPOLOGY, such as v5p:4x4x4, and --image NAME with its registry")
    tpu = parse_slice(options.tpu)
    claim, mounted = _claim(options.claim)
    check_kept(request.training, "a pod", "is gone when that ends", (mounted,) if mounted else ())
    hosts = _hosts(tpu, options.chips_per_host)
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": options.service_account,
        "terminationGracePeriodSeconds": options.grace,
        # The network between slices is slower through the pods' own.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": tpu.generation.label,
            "cloud.google.com/gke-tpu-topology": tpu.topology,
            "cloud.google.com/gke-spot": "true" if options.spot else None,
            "cloud.google.com/reservation-name": options.reserved,
        },
        "containers": [_container(request, tpu.chips // hosts, mounted)],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}] if claim else [],
    }
    job = {
        "backoffLimit": 0,
        "completionMode": "Indexed",
        "parallelism": hosts,
        "completions": hosts,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "train", "operator": "In", "values": [REFUSED]},
                }
            ]
        },
        "template": {"spec": pod},
    }
    return drop_empty(
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": request.job,
                "namespace": options.namespace,
                "labels": {"kueue.x-k8s.io/queue-name": options.queue},
                # A slice is a node pool, and one job is to have all of it.
                "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
            },
            "spec": {
                "failurePolicy": {
                    "maxRestarts": options.restarts,
                    "rules": [
                        {"name": "refused", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                    ],
                },
                "replicatedJobs": [{"name": "slice", "replicas": options.slices, "template": {"spec": job}}],
            },
        }
    )


def _container(request: Request, chips: int, mounted: str | None) -> dict[str, Any]:
    # Beside the run where there is a shared volume; else the pod's output is all there is, and `logs` fetches it.
    logs = str(PurePosixPath(mounted) / "logs") if mounted else "-"
    words = [IN_IMAGE, "run", request.job, logs, "--", *request.training.words]
    return {
        "name": "train",
        "image": request.options.image,
        "command": [kubernetes_text(word) for word in words],
        "env": [{"name": name, "value": kubernetes_text(value)} for name, value in request.environment.items()],
        "ports": [{"containerPort": port, "protocol": "TCP"} for port in PORTS],
        "resources": {"limits": {"google.com/tpu": chips}},
        # The devices belong to root.
        "securityContext": {"runAsUser": 0, "privileged": request.options.privileged or None},
        "volumeMounts": [{"name": "shared", "mountPath": mounted}] if mounted else [],
    }


def kubernetes_text(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and variables, and takes $$ for a dollar: so that nothing is replaced."""
    return text.replace("$", "$$")


def logs(request: Request) -> str:
    """Follow all pods, and keep what they print by pod."""
    selector = f"jobset.sigs.k8s.io/jobset-name={request.job}"
    return script(request.title, KUBECTL, *follow(request, selector))


def follow(request: Request, selector: str) -> tuple[str, ...]:
    """Commands that show and keep the output of the pods with that label."""
    words = ("logs", "--selector", selector, "--follow", "--prefix", "--tail=-1", "--ignore-errors")
    variable = f"logs={quote(str(request.folder))}"
    return variable, BY_HOST, f"{_kubectl(request, *words, '--max-log-requests=10000')} | by_host"


def status(request: Request) -> str:
    """The JobSet and its pods."""
    selector = f"jobset.sigs.k8s.io/jobset-name={request.job}"
    pods = _kubectl(request, "get", "pods", "--selector", selector, "--output", "wide")
    return script(request.title, KUBECTL, _kubectl(request, "get", "jobset", request.job), pods)


def delete(request: Request) -> str:
    """Stop all pods, which save first, and forget the JobSet; the run stays in its bucket."""
    return script(request.title, KUBECTL, _kubectl(request, "delete", "jobset", request.job))


def _kubectl(request: Request, *words) -> str:
    options = request.options
    context = (f"--context={options.context}",) if options.context else ()
    namespace = (f"--namespace={options.namespace}",) if options.namespace else ()
    return command("kubectl", *context, *namespace, *words)


def _hosts(tpu: Slice, chips_per_host: int | None) -> int:
    hosts, odd = divmod(tpu.chips, chips_per_host or tpu.chips_per_host)
    if odd or not hosts:
        raise ValueError(f"--chips-per-host {chips_per_host} does not divide the {tpu.chips} chips of {tpu}")
    return hosts


def _claim(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    match = re.fullmatch(r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?)=(/[^:]+)", text)
    if not match:
        raise ValueError(f"--claim {text!r}: a claim is mounted as CLAIM=/PATH, such as --claim filestore=/shared")
    return match[1], match[3]


VERBS = {"start": start, "status": status, "logs": logs, "stop": delete, "delete": delete}
TRAINING_VERBS = ("start",)
