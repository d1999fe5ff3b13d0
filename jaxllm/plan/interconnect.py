"""How fast the devices along a mesh axis can talk: which links of a slice's torus they have between them.

A mesh axis lies on some dimensions of the torus. In each of these a device sends both ways at once, so that a closed
ring counts two links and an open line, whose ends have but one, counts one. Devices of one group that stand `s` apart
share the links between them with s - 1 other groups. Groups that reach into other slices are as fast as the data
center's network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jaxllm.parallel.collectives import Collective
from jaxllm.plan.topology import Topology

RULE = (
    "bytes that each device must send (gather, scatter and exchange (N-1)/N of the whole, all-reduce twice that) / "
    "links along the mesh axis, two where it closes a ring of the torus, one where not; an exchange crosses a "
    "quarter of the longest ring; one collective after another; between slices the data center's network"
)


@dataclass(frozen=True)
class Path:
    """What the devices along some mesh axes have between them."""

    bandwidth: float
    """Bytes a second that a device can send."""
    between_slices: bool
    dimensions: tuple[tuple[int, float], ...]
    """Of each dimension of the torus that the axes lie on: devices along it, and a device's bandwidth in it."""


def path_along(axes: tuple[str, ...], mesh: Mesh, topology: Topology) -> Path:
    """What the devices that differ only in their places along these mesh axes have between them."""
    chosen = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    group = np.atleast_1d(mesh.devices[chosen]).ravel()
    generation = topology.generation
    if len({getattr(device, "slice_index", 0) for device in group}) > 1:
        return Path(generation.network / generation.devices, True, ())
    places = np.array([device.coords for device in group])
    dimensions = []
    for size, wraps, column in zip(topology.shape, topology.wraps, places.T, strict=False):
        used = np.unique(column)
        if len(used) == 1:
            continue
        apart = int(np.diff(used).min())
        links = 2 if wraps and len(used) * apart == size else 1
        dimensions.append((len(used), links * generation.link / apart / generation.devices))
    if not dimensions:  # two devices of one chip
        return Path(2 * generation.link, False, ())
    return Path(sum(bandwidth for _, bandwidth in dimensions), False, tuple(dimensions))


def seconds(collective: Collective, path: Path) -> float:
    """Of one run at best."""
    if "all-to-all" in collective.kind and path.dimensions:
        longest, bandwidth = max(path.dimensions, key=lambda d: d[0] / d[1])
        return collective.bytes * longest / 4 / bandwidth
    return collective.sent / path.bandwidth
