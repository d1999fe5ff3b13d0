"""The one constructor of device meshes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import jax
from jax.sharding import AxisType, Mesh


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each kind of parallelism takes. One axis may be -1: it takes what the others leave."""

    data: int = -1
    """Replicas of the model, each with its part of the batch."""
    fsdp: int = 1
    """Devices that share the batch and also shard parameters, gradients and optimizer state (ZeRO-3)."""
    tensor: int = 1
    """Devices that split heads, MLP width and vocabulary."""
    pipeline: int = 1
    """Ranks of a pipeline, each with an equal share of the layers; how they take turns is `pipeline.schedule`."""

    def __post_init__(self):
        sizes = self.sizes()
        wrong = [f"mesh.{name}={size}" for name, size in sizes.items() if size < 1 and size != -1]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: a mesh axis is at least 1, or -1 for what the other axes leave")
        if sum(size == -1 for size in sizes.values()) > 1:
            raise ValueError(f"only one mesh axis may be -1, got {sizes}")

    def sizes(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with an axis for each field of `config`, over all devices (of every process) unless some are given.

    Axes are of type Auto: the compiler propagates shardings from parameters and constraints (`jax.make_mesh` alone
    would make them Explicit). Raises ValueError when the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = config.sizes()
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        rest, remainder = divmod(len(devices), fixed)
        sizes = {name: rest if size == -1 else size for name, size in sizes.items()}
        if remainder or not rest:
            raise ValueError(_misfit(sizes, fixed, len(devices), "must divide"))
    elif fixed != len(devices):
        raise ValueError(_misfit(sizes, fixed, len(devices), "must equal"))
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def _misfit(sizes: dict[str, int], product: int, devices: int, relation: str) -> str:
    axes = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 0)
    return (
        f"the mesh {axes} needs {product} devices, but there are {devices}: the product of the fixed axes {relation} "
        f"the number of devices. Change {', '.join(f'--mesh.{name}' for name in sizes)} (one of them may be -1)"
    )
