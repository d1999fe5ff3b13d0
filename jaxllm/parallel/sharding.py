"""Logical axis names to mesh axes: one table, used for parameters and activations alike."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxllm.parallel.mesh import MeshConfig, make_mesh

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
    expert: MeshAxes = "expert"
    router: MeshAxes = None  # experts as what a router chooses from, which all devices do
    latent: MeshAxes = None
    inner: MeshAxes = "tensor"
    state: MeshAxes = None
    conv: MeshAxes = None
    residual: MeshAxes = None

    batch: MeshAxes = ("data", "fsdp", "expert")
    length: MeshAxes = "context"
    stream: MeshAxes = "context"  # the length again, of the residual stream between mixers
    rows: MeshAxes = ("context", "data", "fsdp", "expert")  # pieces of rows: length and batch in one
    expert_batch: MeshAxes = ("data", "fsdp")  # the batch where experts are split over their axis
    act_heads: MeshAxes = "tensor"
    act_mlp: MeshAxes = "tensor"
    act_expert: MeshAxes = "expert"
    act_inner: MeshAxes = "tensor"
    act_vocab: MeshAxes = "tensor"

    def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
        """The partition of an array with these logical axes. Raises ValueError when two of them want one mesh axis."""
        entries = [None if axis is None else getattr(self, axis) for axis in axes]
        used = [name for entry in entries for name in axis_names(entry)]
        if len(used) != len(set(used)):
            raise ValueError(f"the rules put two of the logical axes {axes} on one mesh axis: {entries}")
        return PartitionSpec(*entries)


@dataclass(frozen=True)
class Forms:
    """How the axes go about it whose communication is an algorithm; see the fields of the same names of MeshConfig."""

    context_form: Literal["ring", "all_gather", "ulysses"] = "ring"
    context_order: Literal["zigzag", "text"] = "zigzag"
    exchange: Literal["padded", "ragged"] = "padded"
    exchange_room: float = 0.0


@dataclass(frozen=True)
class Layout:
    """A mesh and the rules that say how arrays lie on it."""

    mesh: Mesh
    rules: Rules = Rules()
    """Of parameters and activations."""
    gradient_rules: Rules | None = None
    """Of gradients; None: as parameters."""
    state_rules: Rules | None = None
    """Of what the optimizer keeps in a parameter's image; None: as parameters."""
    forms: Forms = Forms()

    def sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self.mesh, self.rules.spec(axes))

    def ways(self, axis: str) -> int:
        """Into how many parts a logical axis is split."""
        return _ways(self.mesh, getattr(self.rules, axis))

    @property
    def batch_shards(self) -> int:
        """Into how many parts the batch is split."""
        return self.ways("batch")

    def with_whole_rows(self) -> Layout:
        """The layout of a layer that needs all of the text: the devices that split it take more channels apart
        instead."""
        context = axis_names(self.rules.length)
        wider = {
            name: axis_names(getattr(self.rules, name)) + context for name in ("act_inner", "act_mlp", "act_heads")
        }
        return replace(self, rules=replace(self.rules, length=None, **wider))


def make_layout(config: MeshConfig, devices: list[jax.Device] | None = None) -> Layout:
    """The mesh of a config over all devices, or those given, and its rules. Raises what `make_mesh` does."""
    return layout_of(config, make_mesh(config, devices))


def layout_of(config: MeshConfig, mesh: Mesh) -> Layout:
    """The rules of a config on a mesh (an abstract one will do).

    ZeRO (Rajbhandari et al. 2020) is three tables: what is not sharded over `fsdp` has its width whole.
    """
    whole = Rules()
    if config.sequence_parallel:
        whole = replace(whole, stream=("context", "tensor"))
    if config.replicate_kv:
        whole = replace(whole, kv_heads=None)
    replicated = replace(whole, embed=None)
    return Layout(
        mesh,
        rules=whole if config.zero == 3 else replicated,
        gradient_rules=replicated if config.zero == 1 else whole,
        state_rules=whole,
        forms=Forms(config.context_form, config.context_order, config.exchange, config.exchange_room),
    )


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


def on_each_device(f: Callable, layout: Layout, in_specs: Any, out_specs: Any) -> Callable:
    """`jax.shard_map` of `f` over all axes of the mesh, for communication that is an algorithm of its own.

    Inside another one, with the layout of the axes that this has left to the compiler, it is over those.
    """
    mesh = layout.mesh
    free = {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual}
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=free, check_vma=False)


def gather_stream(x_BTD: jax.Array) -> jax.Array:
    """The residual stream, normalized, as mixers want it: gathered where it is split along the text between them."""
    layout = _layout.get()
    if layout is None or layout.rules.stream == layout.rules.length:
        return x_BTD
    # Both places are pinned, for a gradient goes the same way back.
    return constrain(constrain(x_BTD, "batch", "stream", None), "batch", "length", None)


def scatter_stream(out_BTD: jax.Array) -> jax.Array:
    """A mixer's result as it joins the stream: a sum over devices of which each keeps its part, a reduce-scatter."""
    layout = _layout.get()
    if layout is None or layout.rules.stream == layout.rules.length:
        return out_BTD
    return constrain(constrain(out_BTD, "batch", "length", None), "batch", "stream", None)


def constrain_gradient(x: jax.Array, *axes: str | None) -> jax.Array:
    """The same of a parameter's gradient."""
    layout = _layout.get()
    return x if layout is None else _constrain_as(layout, layout.gradient_rules, x, axes)


def constrain_gradients(spec: Any, gradients: Any) -> Any:
    """The same of a tree of them, by their declarations."""
    return jax.tree.map(lambda param, x: constrain_gradient(x, *param.axes), spec, gradients)


def constrain_updates(spec: Any, updates: Any) -> Any:
    """Pin what an optimizer makes of gradients to where its state lies, so that each device computes its part only."""
    layout = _layout.get()
    if layout is None:
        return updates
    return jax.tree.map(lambda param, x: _constrain_as(layout, layout.state_rules, x, param.axes), spec, updates)


def _constrain_as(layout: Layout, rules: Rules | None, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    spec = (rules or layout.rules).spec(axes)
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, spec))


def current_layout() -> Layout | None:
    return _layout.get()


def param_shardings(spec: Any, layout: Layout, rules: Rules | None = None) -> Any:
    """The sharding of each declared parameter, by the layout's rules or by others. Raises ValueError naming parameters
    that the mesh does not divide."""
    problems: list[str] = []

    def place(path, param):
        sharding = NamedSharding(layout.mesh, (rules or layout.rules).spec(param.axes))
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


def axis_names(entry: MeshAxes) -> tuple[str, ...]:
    """The mesh axes of a rule, as a tuple."""
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def _ways(mesh: Mesh, entry: MeshAxes) -> int:
    return math.prod(mesh.shape[name] for name in axis_names(entry))
