"""How long a compiled step takes at best, from what it multiplies, moves and sends."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from jax.sharding import Mesh

from jaxllm.parallel.collectives import Collective, collectives_of
from jaxllm.parallel.hlo import Module
from jaxllm.plan import compiled_work, interconnect
from jaxllm.plan.compiled_work import Kernel, kernels, silent_kernels
from jaxllm.plan.interconnect import path_along
from jaxllm.plan.topology import Topology

RULES = {
    **compiled_work.RULES,
    "kernels": "each kernel takes the longer of operations / peak and bytes / bandwidth, one after another",
    "network": interconnect.RULE,
    "step": "between the longer of kernels and network, all communication hidden, and their sum, none hidden",
    "MFU": "the model's operations (no recomputation, causal scores half) / (seconds x peak), at best and at worst; "
    "real kernels stay below both rooflines",
}


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind over the same mesh axes."""

    kind: str
    axes: tuple[str, ...] | None
    """None for groups of devices that are no axes' own."""
    runs: int
    """Collectives in one step, turns of the loops included."""
    bytes: int
    """Each device takes part with."""
    sent: float
    """Bytes each device sends."""
    seconds: float
    between_slices: bool


@dataclass(frozen=True)
class Timing:
    """Seconds of one step."""

    flops: float
    """That the program executes in products."""
    bytes: float
    """From and to main memory."""
    compute: float
    """Seconds of all products at peak."""
    memory: float
    """Seconds of all bytes at full bandwidth."""
    kernels: float
    """Seconds of all kernels, each as long as the longer of both."""
    links: float
    """Seconds of the collectives within slices."""
    network: float
    """Seconds of the collectives between slices."""
    best_mfu: float
    worst_mfu: float
    slowest: tuple[Kernel, ...]
    """Kernels by their seconds."""
    silent: tuple[str, ...]
    """Hand-written kernels that state no operations: they are missing."""

    @property
    def best(self) -> float:
        return max(self.kernels, self.links + self.network)

    @property
    def worst(self) -> float:
        return self.kernels + self.links + self.network

    @property
    def bound(self) -> str:
        """What the step waits for."""
        if self.links + self.network > self.kernels:
            return "network"
        return "compute" if self.compute >= self.memory else "memory"


def traffic(module: Module, mesh: Mesh, topology: Topology) -> tuple[Traffic, ...]:
    """The collectives of a program, together by kind and mesh axes, the slowest first.

    Raises ValueError for one in a loop whose length is not known.
    """
    groups: dict[tuple[str, tuple[str, ...] | None], list[Collective]] = defaultdict(list)
    for collective in collectives_of(module):
        if collective.trips is None:
            raise ValueError(f"how often the {collective.kind} of {collective.op_name!r} runs is not known")
        groups[collective.kind, collective.over(mesh)].append(collective)
    rows = []
    for (kind, axes), members in groups.items():
        path = path_along(mesh.axis_names if axes is None else axes, mesh, topology)
        rows.append(
            Traffic(
                kind=kind,
                axes=axes,
                runs=sum(c.trips for c in members),
                bytes=sum(c.trips * c.bytes for c in members),
                sent=sum(c.trips * c.sent for c in members),
                seconds=sum(c.trips * interconnect.seconds(c, path) for c in members),
                between_slices=path.between_slices,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def timing(module: Module, found: tuple[Traffic, ...], model_flops: float, topology: Topology) -> Timing:
    """Raises ValueError for work in a loop whose length is not known."""
    hardware = topology.generation.hardware
    work = sorted(kernels(module), key=lambda kernel: -kernel.seconds(hardware))
    flops, moved = sum(k.runs * k.flops for k in work), sum(k.runs * k.bytes for k in work)
    in_kernels = sum(k.seconds(hardware) for k in work)
    links = sum(row.seconds for row in found if not row.between_slices)
    network = sum(row.seconds for row in found if row.between_slices)
    useful = model_flops / hardware.flops
    return Timing(
        flops=flops,
        bytes=moved,
        compute=flops / hardware.flops,
        memory=moved / hardware.bandwidth,
        kernels=in_kernels,
        links=links,
        network=network,
        best_mfu=useful / max(in_kernels, links + network),
        worst_mfu=useful / (in_kernels + links + network),
        slowest=tuple(work[:8]),
        silent=silent_kernels(module),
    )
