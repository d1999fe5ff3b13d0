"""What was asked for on the command line, as one value that a place renders a script from."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from launch.script import assignments
from launch.training import Training

# How the processes of a job find each other, read when training starts. Not set on TPUs, where JAX finds out itself.
COORDINATOR, PROCESSES, PROCESS = "JAXLLM_COORDINATOR", "JAXLLM_PROCESSES", "JAXLLM_PROCESS"
# The port that JAX too prefers.
PORT = 8476


@dataclass(frozen=True)
class Request:
    """One command line of launch/run."""

    title: str
    """The command line itself, as a comment of the script."""
    job: str
    """Its name, under which it is found again."""
    logs: Path
    """The absolute folder of all jobs' logs."""
    directory: Path
    """From where it was asked for; relative paths begin there in places that share this machine's files."""
    environment: dict[str, str]
    """For the training, on every host."""
    options: argparse.Namespace
    """Those of the place."""
    training: Training | None
    """None for a verb that starts nothing."""

    @property
    def folder(self) -> Path:
        """Of this job: the script, manifests, and a log for each host."""
        return self.logs / self.job

    def host_command(self, host: str | Path, verb: str, logs: str | Path, **environment: str) -> list[str]:
        """The words that start the training on a host, where this repository's launch/host.sh is `host`."""
        variables = assignments(self.environment | environment)
        return [*variables, str(host), verb, self.job, str(logs), "--", *self.training.words]


def add_spot(parser: argparse.ArgumentParser, reserved: str | None = None) -> None:
    """--spot, and the place's way to a reservation, of which only one can be had."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--spot", action="store_true", help="cheaper machines that can be taken away at any time")
    if reserved == "flag":
        group.add_argument("--reserved", action="store_true", help="machines of your reservation")
    elif reserved == "name":
        group.add_argument("--reserved", metavar="NAME", help="machines of the reservation of that name")


def add_restarts(parser: argparse.ArgumentParser, when: str) -> None:
    parser.add_argument("--restarts", type=count, default=0, metavar="N", help=f"start again up to N times {when}")


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)
