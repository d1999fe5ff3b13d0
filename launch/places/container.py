"""A container on this machine, and the image that gke and xpk run.

The image holds the commit that is checked out, with pinned requirements, and runs as an ordinary user.
The current folder is mounted under its own name, so that experiments, data and runs are named as without a container.
"""

from __future__ import annotations

import argparse
import os

from launch.request import Request, add_restarts
from launch.script import command, needs, script
from launch.source import archive, described, head
from launch.training import check_kept

DOCKER = needs("docker", "https://docs.docker.com/engine/install")
DEVICES = {"cpu": (), "cuda": ("--gpus", "all"), "tpu": ("--privileged", "--network", "host")}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accelerator", choices=("cpu", "cuda", "tpu"), default="cpu", help="cpu by default")
    parser.add_argument("--image", metavar="NAME", help="of the image; jaxllm:ACCELERATOR by default")
    parser.add_argument("--mount", metavar="DIR", action="append", default=[], help="a folder with data, read-only")
    parser.add_argument("--dirty", action="store_true", help="build the working tree as it is")
    add_restarts(parser, "when the training fails, detached from this terminal")


def start(request: Request) -> str:
    """docker run, in the foreground unless it may restart."""
    options, here = request.options, request.directory
    check_kept(request.training, "a container", "is gone when that ends", (str(here), *_relative(request)))
    if options.restarts:
        lifetime = ("--detach", "--restart", f"on-failure:{options.restarts}")
    else:
        lifetime = ("--rm",)
    outside = [request.logs] if not request.logs.is_relative_to(here) else []
    words = [
        *("docker", "run", *lifetime, "--name", request.job, "--hostname", request.job),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"),
        *(word for path in (here, *outside) for word in ("--volume", f"{path}:{path}")),
        *(word for path in map(os.path.abspath, options.mount) for word in ("--volume", f"{path}:{path}:ro")),
        *("--workdir", str(here), *DEVICES[options.accelerator]),
        *(word for name, value in request.environment.items() for word in ("--env", f"{name}={value}")),
        *(image(request), "run", request.job, str(request.logs), "--", *request.training.words),
    ]
    return script(request.title, DOCKER, "exec " + command(*words))


def build(request: Request) -> str:
    """docker build, from an archive of the commit, so that nothing else gets into the image."""
    options = request.options
    commit = head(options.dirty)
    words = [
        *("docker", "build", "--file", "launch/Dockerfile", "--build-arg", f"ACCELERATOR={options.accelerator}"),
        *("--label", f"org.opencontainers.image.revision={described(commit, options.dirty)}"),
        *("--tag", image(request), "-"),
    ]
    return script(request.title, DOCKER, f"{archive(commit, options.dirty)} | {command(*words)}")


def image(request: Request) -> str:
    return request.options.image or f"jaxllm:{request.options.accelerator}"


def _docker(*words: str):
    def render(request: Request) -> str:
        filled = [word.format(job=request.job, image=image(request)) for word in words]
        return script(request.title, DOCKER, "exec " + command("docker", *filled))

    return render


def _relative(request: Request) -> tuple[str, ...]:
    """A relative run directory lies in the mounted folder, unless it leads out of it."""
    directory = request.training.run_directory
    inside = os.path.abspath(request.directory / directory)
    return (directory,) if inside.startswith(f"{request.directory}{os.sep}") else ()


VERBS = {
    "start": start,
    "build": build,
    "push": _docker("push", "{image}"),
    "status": _docker("ps", "--all", "--filter", "name=^{job}$"),
    "logs": _docker("logs", "--follow", "{job}"),
    "stop": _docker("stop", "-t", "600", "{job}"),
    "delete": _docker("rm", "--force", "{job}"),
}
TRAINING_VERBS = ("start",)
