"""Slices of TPU pods by name, as a compiler without a TPU at hand knows them.

`v5p:4x4x8` names a shape in chips, which is how libtpu and GKE say it; `v5p-256` is the same slice as Google Cloud's
accelerator types call it. These count chips for v5e and v6e, but TensorCores for v5p, of which a chip has two: v5p-256
has 128 chips. JAX sees one device a chip, of tpu7x two.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any

from jaxllm.config import did_you_mean
from jaxllm.plan.hardware import HARDWARE, Hardware

GIB = 2**30


@dataclass(frozen=True)
class Generation:
    """What the chips of a generation have in common. Sources: cloud.google.com/tpu/docs/v5e, v5p, v6e, tpu7x."""

    name: str
    shapes: tuple[str, ...]
    """Those that are offered most often, in chips."""
    hbm: float
    """GiB of a device that the compiler leaves to programs, as its own errors say."""
    link: float
    """Bytes a second, one way, of one of the links that a chip has in both directions of each dimension."""
    network: float
    """Bytes a second of a chip to other slices, over the data center's network."""
    cores: int = 1
    """What an accelerator type counts for each chip."""
    devices: int = 1
    """What JAX sees of a chip."""
    most_chips: int = 256
    dollars: float | None = None
    """List price of a chip and hour, on demand, in the US, in 2025."""

    @property
    def dimensions(self) -> int:
        return self.shapes[-1].count("x") + 1

    @property
    def hardware(self) -> Hardware:
        """One device as JAX sees it."""
        chip, n = HARDWARE[self.name], self.devices
        return replace(chip, flops=chip.flops / n, bandwidth=chip.bandwidth / n, memory=chip.memory / n)


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
GENERATIONS = {
    g.name: g
    for g in (
        Generation("v5e", FLAT, hbm=15.75, link=50e9, network=25e9 / 8, dollars=1.20),
        Generation("v6e", FLAT, hbm=31.25, link=100e9, network=100e9 / 8, dollars=2.70),
        Generation("v5p", CUBES, 95.74, 100e9, 50e9 / 8, cores=2, most_chips=6144, dollars=4.20),
        Generation("tpu7x", CUBES, 94.75, 100e9, 100e9 / 8, cores=2, devices=2, most_chips=9216),
    )
}


@dataclass(frozen=True)
class Topology:
    """One slice, or several of one shape that the data center's network joins."""

    generation: Generation
    shape: tuple[int, ...]
    """Chips along each dimension."""
    slices: int = 1

    @property
    def name(self) -> str:
        """As libtpu takes it."""
        return f"{self.generation.name}:{'x'.join(map(str, self.shape))}"

    @property
    def accelerator(self) -> str:
        """As Google Cloud calls one slice."""
        return f"{self.generation.name}-{math.prod(self.shape) * self.generation.cores}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        return self.chips * self.generation.devices

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether the links of each dimension close to a ring: in v5e and v6e where a dimension spans the whole pod of
        16, else where the slice is made of whole cubes of 4 x 4 x 4."""
        if self.generation.dimensions == 2:
            return tuple(size == 16 for size in self.shape)
        return (all(size % 4 == 0 for size in self.shape),) * 3


def read_topology(text: str, slices: int = 1) -> Topology:
    """The slice that v5e:8x8, v5p-256 and the like name. Raises ValueError that lists what there is."""
    match = re.fullmatch(r"([a-z0-9]+)(?::([0-9]+(?:x[0-9]+)*)|-([0-9]+))", text.strip().lower())
    generation = GENERATIONS.get(match[1]) if match else None
    if generation is None:
        name = re.split("[:-]", text)[0].lower()
        if name == "v4":
            raise ValueError(
                "v4 can't be compiled for: libtpu describes its two cores as devices of their own, where JAX runs on "
                f"both as one\n{listing()}"
            )
        raise ValueError(f"unknown topology {text!r}{did_you_mean(name, GENERATIONS)}\n{listing()}")
    if slices < 1:
        raise ValueError(f"--slices must be at least 1, got {slices}")
    if match[2]:
        shape = tuple(int(size) for size in match[2].split("x"))
        if match[2] not in generation.shapes and not _made_of_cubes(generation, shape):
            raise ValueError(f"there is no slice {text!r}{did_you_mean(match[2], generation.shapes)}\n{listing()}")
        return Topology(generation, shape, slices)
    for known in generation.shapes:
        topology = Topology(generation, tuple(map(int, known.split("x"))), slices)
        if topology.accelerator == f"{match[1]}-{match[3]}":
            return topology
    raise ValueError(f"there is no slice {text!r} of the usual shapes\n{listing()}")


def listing() -> str:
    """Every usual slice, in lines."""
    lines = ["known (chips along each dimension, or the accelerator type):"]
    for generation in GENERATIONS.values():
        slices = [Topology(generation, tuple(map(int, shape.split("x")))) for shape in generation.shapes]
        lines.append("  " + ", ".join(f"{s.name} = {s.accelerator}" for s in slices))
    lines.append("  and others of v5p and tpu7x whose dimensions are multiples of 4 in ascending order")
    return "\n".join(lines)


def compile_only_devices(topology: Topology) -> list[Any]:
    """Devices that programs can be compiled for, but not run on.

    Raises ValueError where the compiler, libtpu, is not installed or refuses the topology.
    """
    # Without these, libtpu asks the cloud's metadata server what machine this is, which takes long where there is none,
    # and refuses to be loaded by two processes at once, which only matters where there is a TPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", topology.accelerator)
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    if not libtpu_installed():
        raise ValueError(
            "compiling for a TPU needs its compiler, libtpu, but no TPU: pip install 'jaxllm[tpu]' (about 210 MB; the "
            "version has to be the one that this jax names)"
        )
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {} if topology.slices == 1 else {"num_slices": topology.slices}
    if topology.chips == topology.slices:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu knows no topology {topology.name}: {error}\n{listing()}") from error
    return list(found.devices)


def libtpu_installed() -> bool:
    """Whether JAX would find it: where TPU_LIBRARY_PATH says, or as a package."""
    from importlib.util import find_spec

    return os.path.isfile(os.environ.get("TPU_LIBRARY_PATH", "")) or find_spec("libtpu") is not None


def _made_of_cubes(generation: Generation, shape: tuple[int, ...]) -> bool:
    return (
        generation.dimensions == len(shape) == 3
        and all(size and size % 4 == 0 for size in shape)
        and list(shape) == sorted(shape)
        and math.prod(shape) <= generation.most_chips
    )
