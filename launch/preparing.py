"""The command line of launch/prepare: `jaxllm data prepare --engine ray` on a cluster of machines, as a bash script.

Every node must see the output directory, and the sources, under the same path. A job that ends in the middle goes on
where it was when it is submitted again with the same words.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.command import REFUSED
from launch.manifest import drop_empty, to_yaml
from launch.request import add_restarts, positive
from launch.script import command, needs, one_line, quote, script, write_file
from launch.training import REPOSITORY, check_name

HELP = """\
usage: launch/prepare PLACE [options] -- RECIPE --out DIR [--a.b=c ...]

After -- stands what `jaxllm data prepare` takes. PLACE is one of
  ray      a Ray cluster that is there already
  slurm    nodes of a Slurm cluster, on which Ray is started and ended with the job
  kuberay  pods of a Kubernetes cluster with the KubeRay operator, by a RayJob

  --dry-run   print the bash script that would be executed, and do nothing"""

RAY = needs("ray", "pip install 'jaxllm[ray]'")
SLURM = needs("sbatch", "the Slurm client, on a machine of the cluster")
KUBECTL = needs("kubectl", "https://kubernetes.io/docs/tasks/tools")
PORT = 6379

BATCH = r"""
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes%%$'\n'*}"
# Ray starts on all nodes, the command runs on the first, and when it ends Ray ends everywhere.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
  ray symmetric-run --address "$head:@PORT@" --min-nodes "$SLURM_JOB_NUM_NODES" \
  -- @WORDS@
""".strip()


def main(arguments: list[str]) -> int:
    """Execute one command line, or print what would be. Only returns where nothing is executed."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else REFUSED
    try:
        text, dry_run = render(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    if dry_run:
        print(text, end="")
        return 0
    sys.stdout.flush()
    os.execvp("bash", ["bash", "-c", text])
    return 0


def render(arguments: list[str]) -> tuple[str, bool]:
    """(the script, whether it is only to be shown). Raises ValueError for what can't be launched."""
    name, *rest = arguments
    if name not in PLACES:
        raise ValueError(f"unknown place {name!r}\nknown: {', '.join(PLACES)}")
    before, after = (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else (rest, [])
    if not after:
        raise ValueError(f"which recipe? launch/prepare {name} [options] -- RECIPE --out DIR")
    add_options, place = PLACES[name]
    parser = argparse.ArgumentParser(prog=f"launch/prepare {name}", description=place.__doc__, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="print the script, and do nothing")
    parser.add_argument("--job", metavar="NAME", help="the job's name; that of the output directory by default")
    add_options(parser)
    options, strays = parser.parse_known_args(before)
    if strays:
        raise ValueError(f"launch/prepare {name} does not know {' '.join(strays)}; what is for jaxllm stands after --")
    out = _value(after, "--out")
    if not out:
        raise ValueError(
            "name the output directory, on a file system that all nodes share: -- RECIPE --out /shared/DIR"
        )
    if _value(after, "--engine"):
        raise ValueError("the engine is ray here; leave --engine out")
    job = re.sub(r"[^a-z0-9]+", "-", Path(out).name.lower()).strip("-") if options.job is None else options.job
    words = ["data", "prepare", *after, "--engine", "ray"]
    title = f"launch/prepare {one_line([word for word in arguments if word != '--dry-run'])}"
    return place(title, check_name(job), words, options), options.dry_run


def _value(words: list[str], option: str) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _ray_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", default="http://127.0.0.1:8265", help="of the cluster's dashboard")


def ray(title: str, job: str, words: list[str], options: argparse.Namespace) -> str:
    """Submit to a Ray cluster whose nodes have what jaxllm needs; the package itself is sent along."""
    submit = ["ray", "job", "submit", "--address", options.address, "--working-dir", str(REPOSITORY)]
    # The first word is a program of the nodes, not of this machine.
    return script(title, RAY, command(*submit, "--metadata-json", f'{{"name": "{job}"}}', "--", *_python(words)))


def _slurm_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=positive, default=2, metavar="N", help="2 by default")
    parser.add_argument("--cpus", type=positive, metavar="N", help="of each node")
    parser.add_argument("--time", metavar="LIMIT", help="such as 1-00:00:00")
    parser.add_argument("--sbatch-flag", metavar="FLAG", action="append", default=[], help="for sbatch, as it is")


def slurm(title: str, job: str, words: list[str], options: argparse.Namespace) -> str:
    """Submit a batch job that starts Ray on its nodes; this folder must lie on a file system that they share."""
    path = Path("logs").absolute() / job / "job.sbatch"
    body = BATCH.replace("@PORT@", str(PORT)).replace("@WORDS@", one_line(_python(words)))
    submit = [
        *("sbatch", f"--job-name={job}", f"--nodes={options.nodes}", "--ntasks-per-node=1", "--exclusive"),
        *((f"--cpus-per-task={options.cpus}",) if options.cpus else ()),
        *((f"--time={options.time}",) if options.time else ()),
        f"--chdir={Path.cwd()}",
        f"--output={path.parent}/slurm-%j.log",
        *options.sbatch_flag,
        str(path),
    ]
    batch = script(title, f"export PYTHONPATH={quote(str(REPOSITORY))}", body)
    return script(title, SLURM, f"mkdir -p {quote(str(path.parent))}", write_file(path, batch), command(*submit))


def _kuberay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", metavar="NAME", required=True, help="with jaxllm[ray] in it, and its registry")
    parser.add_argument("--ray-version", metavar="VERSION", required=True, help="of the image, such as 2.60.0")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="pods; 2 by default")
    parser.add_argument("--cpus", type=positive, default=16, metavar="N", help="of each; 16 by default")
    parser.add_argument("--memory", metavar="SIZE", default="64Gi", help="of each; 64Gi by default")
    parser.add_argument(
        "--claim", metavar="CLAIM=PATH", required=True, help="a volume that all pods share, mounted at PATH"
    )
    parser.add_argument("--namespace", help="that of kubectl's context by default")
    parser.add_argument("--spot", action="store_true", help="workers on GKE's spot nodes; what is lost is done again")
    add_restarts(parser, "on a new cluster after a failure; finished shards are not done again")


def kuberay(title: str, job: str, words: list[str], options: argparse.Namespace) -> str:
    """Apply a RayJob: a cluster is made, the recipe runs, the cluster is given back."""
    path = Path("logs").absolute() / job / "rayjob.yaml"
    apply = ["kubectl", *(["--namespace", options.namespace] if options.namespace else []), "apply", "--filename", path]
    make = [f"mkdir -p {quote(str(path.parent))}", write_file(path, to_yaml(ray_job(job, words, options)))]
    return script(title, KUBECTL, *make, command(*apply))


def ray_job(job: str, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The RayJob, of ray.io/v1."""
    claim, _, mounted = options.claim.partition("=")
    if not claim or not mounted.startswith("/"):
        raise ValueError(
            f"--claim {options.claim!r}: a claim is mounted as CLAIM=/PATH, such as --claim filestore=/shared"
        )
    out = _value(words, "--out")
    if not f"{out}/".startswith(f"{mounted.rstrip('/')}/"):
        raise ValueError(f"--out {out} would be lost with its pod; it must lie in the shared volume, below {mounted}")

    def pod(name: str, cpus: int, memory: str, spot: bool) -> dict[str, Any]:
        size = {"cpu": str(cpus), "memory": memory}
        container = {
            "name": name,
            "image": options.image,
            "resources": {"requests": size, "limits": size},
            "volumeMounts": [{"name": "shared", "mountPath": mounted}],
        }
        return {
            "spec": {
                "nodeSelector": {"cloud.google.com/gke-spot": "true" if spot else None},
                "containers": [container],
                "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
            }
        }

    worker = {
        "groupName": "workers",
        "replicas": options.workers,
        "minReplicas": options.workers,
        "maxReplicas": options.workers,
        "rayStartParams": {"num-cpus": str(options.cpus)},
        "template": pod("ray-worker", options.cpus, options.memory, options.spot),
    }
    # The head does no work of its own, so that it does not run out of memory with a task.
    head = {"rayStartParams": {"num-cpus": "0"}, "template": pod("ray-head", 2, "8Gi", False)}
    return drop_empty(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": job, "namespace": options.namespace},
            "spec": {
                # Ray gives it to sh, which doesn't know all of bash's quotes.
                "entrypoint": shlex.join(_python(words)),
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 600,
                "backoffLimit": options.restarts,
                "rayClusterSpec": {
                    "rayVersion": options.ray_version,
                    "headGroupSpec": head,
                    "workerGroupSpecs": [worker],
                },
            },
        }
    )


def _python(words: list[str]) -> list[str]:
    return ["python3", "-m", "jaxllm", *words]


Place = Callable[[str, str, list[str], argparse.Namespace], str]
PLACES: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Place]] = {
    "ray": (_ray_options, ray),
    "slurm": (_slurm_options, slurm),
    "kuberay": (_kuberay_options, kuberay),
}
