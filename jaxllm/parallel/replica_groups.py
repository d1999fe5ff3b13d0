"""Which devices talk to each other in a collective: the notations of HLO text, read into plain groups.

All of these name the groups (0, 2) and (1, 3) of four devices:

    {{0,2},{1,3}}                                     listed
    [2,2]<=[2,2]T(1,0)                                count 0..3 in a 2 x 2 grid, transpose, read off rows of two
    mesh['x'=2,'y'=2] {'x'}                           along axis x of a grid
    mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'} the same, of a grid whose devices are not counted in order
    mesh['x'=4] {'x':(1)2}                            along a part of an axis: the 2 that have 1 before them in it
"""

from __future__ import annotations

import math
import re

import numpy as np

Groups = frozenset[tuple[int, ...]]

_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[0-9,]*\},?)*)\}")
_COUNTED = re.compile(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)(?= \{))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_ORDER = re.compile(r"\[([0-9,]+)\](?:T\(([0-9,]+)\))?$")


def parse_groups(attributes: str, devices: int) -> Groups:
    """The groups named among an instruction's attributes; an empty list means all `devices` together.

    For a permutation these are its (source, target) pairs. Raises ValueError for a notation that is not known here.
    """
    if listed := _LISTED.search(attributes):
        groups = frozenset(integers(group) for group in re.findall(r"\{([0-9,]*)\}", listed[1]))
        return groups or frozenset([tuple(range(devices))])
    if counted := _COUNTED.search(attributes):
        return _rows(_counted(counted[2], counted[3]).reshape(integers(counted[1])))
    if mesh := _MESH.search(attributes):
        return _along_mesh(mesh[1], mesh[2], mesh[3])
    raise ValueError(f"the groups of devices are written in a way that is not known here: {attributes}")


def groups_along(grid: np.ndarray, axes: list[int]) -> Groups:
    """The groups of devices that differ only in their places along some axes of a grid of device numbers."""
    group_size = math.prod(grid.shape[axis] for axis in axes)
    return _rows(np.moveaxis(grid, axes, range(-len(axes), 0)).reshape(-1, group_size))


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _along_mesh(axes: str, device_order: str | None, along: str) -> Groups:
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in _PART.findall(along)}
    # Every axis is cut into what stands before the part, the part, and what stands behind it.
    cuts = []
    for name, size in sizes.items():
        before, part = parts.get(name, (1, 1))
        cuts.append((before, part, size // (before * part)))
    chosen = [3 * i + 1 for i, name in enumerate(sizes) if name in parts]
    return groups_along(_device_order(device_order, math.prod(sizes.values())).reshape(sum(cuts, ())), chosen)


def _device_order(text: str | None, devices: int) -> np.ndarray:
    if text is None:
        return np.arange(devices)
    order = _ORDER.match(text)
    return _counted(order[1], order[2]).ravel() if order else np.array(integers(text))


def _counted(shape: str, permutation: str | None) -> np.ndarray:
    dimensions = integers(shape)
    grid = np.arange(math.prod(dimensions)).reshape(dimensions)
    return grid.transpose(integers(permutation)) if permutation else grid


def _rows(groups: np.ndarray) -> Groups:
    return frozenset(map(tuple, groups.tolist()))
