"""Logical axis names to mesh axes: one table, used for parameters and activations alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MeshAxes = str | tuple[str, ...] | None


@dataclass(frozen=True)
class Rules:
    """Which mesh axis (or axes) each logical axis is split over; None keeps it whole on every device.

    Parameters first, then activations. A misspelt name is an AttributeError, not a silent replica.
    """

    layers: MeshAxes = None
    stages: MeshAxes = "pipeline"
    vocab: MeshAxes = "tensor"
    position: MeshAxes = None
    embed: MeshAxes = "fsdp"
    heads: MeshAxes = "tensor"
    kv_heads: MeshAxes = "tensor"
    head_dim: MeshAxes = None
    mlp: MeshAxes = "tensor"
    expert: MeshAxes = None
    latent: MeshAxes = None
    inner: MeshAxes = "tensor"
    state: MeshAxes = None
    conv: MeshAxes = None
    residual: MeshAxes = None

    batch: MeshAxes = ("data", "fsdp")
    length: MeshAxes = None
    act_heads: MeshAxes = "tensor"
    act_mlp: MeshAxes = "tensor"
    act_expert: MeshAxes = None
    act_inner: MeshAxes = "tensor"
    act_vocab: MeshAxes = "tensor"

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """The partition of an array with these logical axes. Raises ValueError when two of them want one mesh axis."""
        entries = [None if axis is None else getattr(self, axis) for axis in axes]
        used = [name for entry in entries if entry for name in ((entry,) if isinstance(entry, str) else entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"the rules put two of the logical axes {axes} on one mesh axis: {entries}")
        return PartitionSpec(*entries)


@dataclass(frozen=True)
class Layout:
    """A mesh and the rules that say how arrays lie on it."""

    mesh: Mesh
    rules: Rules = Rules()

    def sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, self.rules.spec(axes))

    @property
    def batch_shards(self) -> int:
        """Into how many parts the batch is split."""
        axes = self.rules.batch or ()
        return _ways(self.mesh, axes)


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextlib.contextmanager
def use_layout(layout: Layout | None) -> Iterator[None]:
    """Within it, `constrain` speaks about this layout. It matters while tracing only."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation's layout by its logical axes; does nothing where no layout is in use."""
    layout = _layout.get()
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, layout.sharding(*axes))


def current_layout() -> Layout | None:
    return _layout.get()


def param_shardings(spec: Any, layout: Layout) -> Any:
    """The sharding of each declared parameter. Raises ValueError naming parameters that the mesh does not divide."""
    problems: list[str] = []

    def place(path, param):
        sharding = layout.sharding(*param.axes)
        for size, axis, entry in zip(param.shape, param.axes, sharding.spec, strict=True):
            ways = _ways(layout.mesh, entry)
            if size % ways:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                problems.append(f"{name}: axis {axis!r} of size {size} over {ways} devices ({entry})")
        return sharding

    shardings = jax.tree_util.tree_map_with_path(place, spec)
    if problems:
        listed = "\n  ".join(problems[:8])
        raise ValueError(
            f"the mesh does not divide these parameters:\n  {listed}\nChange the mesh or the model's sizes"
        )
    return shardings


def _ways(mesh: Mesh, entry: MeshAxes) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    ways = 1
    for name in names:
        ways *= mesh.shape[name]
    return ways
