"""What must be the same on every host of a job: the code, the packages under it, and the run that is asked for."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

Card = dict[str, Any]


def make_card() -> Card:
    """What a process shows when it reports: who it is, and by `fields` what all must agree on."""
    versions = {f"package {name}": _version(name) for name in PACKAGES}
    return {
        "host": host_name(),
        "pid": os.getpid(),
        "fields": {"jaxllm source": source_digest(), "python": platform.python_version(), **versions},
    }


def host_name() -> str:
    """The machine's name; the launchers tell processes on one machine apart by JAXLLM_HOST."""
    return os.environ.get("JAXLLM_HOST") or socket.gethostname()


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """A line for each field in which one is not as the other."""
    absent = "absent"
    return [
        f"{name}: {mine.get(name, absent)!r} instead of {theirs.get(name, absent)!r}"
        for name in {**theirs, **mine}
        if mine.get(name, absent) != theirs.get(name, absent)
    ]


@cache
def source_digest(package: Path = Path(__file__).parent.parent) -> str:
    """16 hex digits of everything Python below the package: it tells edited copies of one commit apart too."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def flat_fields(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, by dotted path."""
    fields: dict[str, Any] = {}
    for name, part in tree.items():
        below = f"{path}.{name}" if path else name
        fields |= flat_fields(part, below) if isinstance(part, Mapping) else {below: part}
    return fields
