"""Which process of a job this one is: told by the launcher's variables, or by the metadata of a TPU pod."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

VARIABLES = ("JAXLLM_COORDINATOR", "JAXLLM_PROCESSES", "JAXLLM_PROCESS")


@dataclass(frozen=True)
class Place:
    """One process among `processes`; `address` is HOST:PORT of process 0, `hosts` their names where they are known."""

    address: str
    process: int
    processes: int
    hosts: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def named(self, process: int) -> str:
        """`process 3`, with its host where that is known before it has said a word."""
        return f"process {process} ({self.hosts[process]})" if process < len(self.hosts) else f"process {process}"


def find_place(environment: Mapping[str, str] = os.environ, *, seconds: int = 300) -> Place | None:
    """None for a process that is alone. Raises ValueError for variables that are incomplete or contradict themselves.

    `seconds` is how long a TPU pod's first host may take to have an address.
    """
    given = [name for name in VARIABLES if environment.get(name)]
    if given:
        place = _from_variables(environment, given)
    elif environment.get("JAX_PLATFORMS") == "cpu":
        return None
    else:
        place = _from_tpu_pod(seconds)
    return place if place is not None and place.processes > 1 else None


def _from_variables(environment: Mapping[str, str], given: list[str]) -> Place:
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise ValueError(
            f"{' and '.join(given)} set, but not {' and '.join(missing)}: a process of several needs all three "
            f"({', '.join(VARIABLES)}), one that is alone none of them"
        )
    address, processes, process = (environment[name] for name in VARIABLES)
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"JAXLLM_COORDINATOR={address!r} is not HOST:PORT of process 0, such as 10.0.0.7:8476")
    if not processes.isdigit() or int(processes) < 1:
        raise ValueError(f"JAXLLM_PROCESSES={processes!r}: expected how many processes the job has, at least 1")
    if not process.isdigit() or int(process) >= int(processes):
        raise ValueError(
            f"JAXLLM_PROCESS={process!r}: expected this process's number, from 0 to {int(processes) - 1} "
            f"(JAXLLM_PROCESSES={processes})"
        )
    return Place(address, int(process), int(processes))


def _from_tpu_pod(seconds: int) -> Place | None:
    """What `jax.distributed.initialize()` finds out by itself, found out before it: it ends the process, without a
    name, when another is missing."""
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster

    pod = next((kind for kind in (GceTpuCluster, GkeTpuCluster) if kind.is_env_present()), None)
    if pod is None or pod.get_process_count() == 1:
        return None
    address = pod.get_coordinator_address(seconds, os.environ.get("JAX_COORDINATOR_PORT"))
    processes = pod.get_process_count()
    workers = tuple(worker.split(":")[0] for worker in pod._get_worker_list_in_slice())
    # Of several slices a host knows the workers of its own only.
    hosts = workers if len(workers) == processes else ()
    return Place(address, pod.get_process_id(), processes, hosts)
