"""The one constructor of device meshes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

# In the order of the mesh: of the axes further back, neighbours lie closer together and talk more often.
AXES = ("data", "pipeline", "fsdp", "expert", "context", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each kind of parallelism takes. One axis may be -1: it takes what the others leave."""

    data: int = -1
    """Replicas of the model, each with its part of the batch."""
    fsdp: int = 1
    """Devices that share the batch and also shard what `zero` says."""
    tensor: int = 1
    """Devices that split heads, MLP width and vocabulary."""
    context: int = 1
    """Devices that split the text of each row."""
    expert: int = 1
    """Devices that share the batch and split the experts of mixtures of experts."""
    pipeline: int = 1
    """Ranks of a pipeline, each with an equal share of the layers; how they take turns is `pipeline.schedule`."""
    slices: int = 1
    """Groups of devices with a fast network inside and a slow one between: replicas (`data`) are spread over them."""
    zero: Literal[1, 2, 3] = 3
    """What `fsdp` shards: optimizer state (ZeRO-1), gradients too (2), parameters too (3)."""
    replicate_kv: bool = False
    """Every device of `tensor` has all key/value heads, where these are fewer than the devices."""
    sequence_parallel: bool = False
    """Between mixers the stream is split along the text over `tensor`, so norms and residuals are not repeated."""
    context_form: Literal["ring", "all_gather", "ulysses"] = "ring"
    """How queries get to keys over `context`: keys travel in a ring, are gathered, or heads are split instead of the
    text."""
    context_order: Literal["zigzag", "text"] = "zigzag"
    """Which tokens a device of `context` has: an early and a late piece of the text, so that causal attention is the
    same work for all; or one piece, which suits layers that go along the text (Mamba) better."""
    exchange: Literal["padded", "ragged"] = "padded"
    """How rows get to their experts over `expert`: in blocks of equal size, anywhere; or as many as there are, where
    the platform can (TPU, GPU)."""
    exchange_room: float = 0.0
    """Rows that there is room for next to an even share; what finds none is dropped and counted. 0: room for all,
    however uneven."""

    def __post_init__(self):
        sizes = self.sizes()
        wrong = [f"mesh.{name}={size}" for name, size in sizes.items() if size < 1 and size != -1]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: a mesh axis is at least 1, or -1 for what the other axes leave")
        if sum(size == -1 for size in sizes.values()) > 1:
            raise ValueError(f"only one mesh axis may be -1, got {sizes}")
        if self.slices < 1:
            raise ValueError(f"mesh.slices must be at least 1, got {self.slices}")
        if self.exchange_room and self.exchange_room < 1:
            raise ValueError(
                f"mesh.exchange_room={self.exchange_room} is less than an even share: at least 1, or 0 for no limit"
            )

    def sizes(self) -> dict[str, int]:
        """The axes in the order of the mesh."""
        return {name: getattr(self, name) for name in AXES}


def make_mesh(
    config: MeshConfig,
    devices: list[jax.Device] | None = None,
    *,
    slice_of: Callable[[jax.Device], int] | None = None,
) -> Mesh:
    """A mesh with an axis for each kind of parallelism, over all devices (of every process) unless some are given.

    Axes are of type Auto: the compiler propagates shardings from parameters and constraints (`jax.make_mesh` alone
    would make them Explicit). With several slices the data axis runs over them first, and all other axes lie inside
    one; `slice_of` says which slice a device is in (default: its slice_index). Raises ValueError when the axes do not
    multiply to the number of devices, or the slices are not as many or as large as the mesh needs.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolve_sizes(config, len(devices))
    if slice_of is None:
        # GPUs of different nodes say that they are in different slices, which need not concern a mesh of one.
        told = config.slices > 1 or devices[0].platform == "tpu"
        slice_of = lambda device: getattr(device, "slice_index", 0) if told else 0  # noqa: E731
    groups = defaultdict(list)
    for device in devices:
        groups[slice_of(device)].append(device)
    if len(groups) != config.slices:
        raise ValueError(
            f"mesh.slices={config.slices}, but the {len(devices)} devices lie in {len(groups)} slice(s): set "
            f"mesh.slices to {len(groups)}"
        )
    data, rest = divmod(sizes["data"], config.slices)
    if rest:
        raise ValueError(
            f"mesh.data={sizes['data']} must be a multiple of mesh.slices={config.slices}: replicas are what is spread "
            "over slices, the other axes stay inside one"
        )
    inside = {**sizes, "data": data}
    uneven = {index: len(group) for index, group in groups.items() if len(group) != math.prod(inside.values())}
    if uneven:
        raise ValueError(f"each slice needs {math.prod(inside.values())} devices, but slices have {uneven}")
    auto = (AxisType.Auto,) * len(sizes)
    grids = [
        jax.make_mesh(tuple(inside.values()), tuple(inside), axis_types=auto, devices=groups[index]).devices
        for index in sorted(groups)
    ]
    return Mesh(np.concatenate(grids, axis=list(sizes).index("data")), tuple(sizes), axis_types=auto)


def resolve_sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """The size of each axis over so many devices. Raises ValueError when they do not multiply to it."""
    sizes = config.sizes()
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        rest, remainder = divmod(devices, fixed)
        sizes = {name: rest if size == -1 else size for name, size in sizes.items()}
        if remainder or not rest:
            raise ValueError(_misfit(sizes, fixed, devices, "must divide"))
    elif fixed != devices:
        raise ValueError(_misfit(sizes, fixed, devices, "must equal"))
    return sizes


def _misfit(sizes: dict[str, int], product: int, devices: int, relation: str) -> str:
    axes = " x ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "of one device"
    return (
        f"the mesh {axes} needs {product} devices, but there are {devices}: the product of the fixed axes {relation} "
        f"the number of devices. Change --mesh.{', --mesh.'.join(AXES)} (one of them may be -1)"
    )
