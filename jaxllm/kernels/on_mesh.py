"""Running a kernel on a mesh: the compiler can't split one by itself, so each device runs it on its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxllm.parallel.sharding import Layout, current_layout, on_each_device

Axes = tuple[str | None, ...]


def run_on_mesh(
    kernel: Callable, arrays: tuple[jax.Array | None, ...], axes: tuple[Axes, ...], out_axes: Axes | list[Axes]
) -> Any:
    """`kernel(*arrays)` where `axes` name the logical axes of each array and of the result (a list: of each of its
    results); none of them may be one that the kernel works along. A batch that the mesh does not divide, and an array's
    axis of size 1, lie whole on every device. Raises ValueError where the mesh does not divide another axis."""
    layout = current_layout()
    if layout is None or layout.mesh.size == 1:
        return kernel(*arrays)
    rows = next(a.shape[named.index("batch")] for a, named in zip(arrays, axes, strict=True) if "batch" in named)
    divided = rows % layout.batch_shards == 0
    specs = tuple(_spec(layout, a, named, divided) for a, named in zip(arrays, axes, strict=True))
    out_spec = lambda named: layout.rules.spec(_without_batch(named, divided))  # noqa: E731
    out = tuple(map(out_spec, out_axes)) if isinstance(out_axes, list) else out_spec(out_axes)
    return on_each_device(kernel, layout, specs, out)(*arrays)


def _spec(layout: Layout, array: jax.Array | None, axes: Axes, divided: bool) -> PartitionSpec:
    if array is None:
        return PartitionSpec()
    whole = tuple(None if size == 1 else axis for size, axis in zip(array.shape, axes, strict=True))
    whole = _without_batch(whole, divided)
    for size, axis in zip(array.shape, whole, strict=True):
        ways = 1 if axis is None else layout.ways(axis)
        if size % ways:
            raise ValueError(
                f"the mesh splits the axis {axis!r} of a kernel's operand, of size {size}, over {ways} devices, which "
                "does not come out even: change the mesh, the heads or the kernel"
            )
    return layout.rules.spec(whole)


def _without_batch(axes: Axes, divided: bool) -> Axes:
    return tuple(None if axis == "batch" and not divided else axis for axis in axes)
