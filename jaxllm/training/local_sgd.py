"""Loosely coupled training: replicas that train apart for many steps and then meet (local SGD, DiLoCo).

Each part of the mesh axis `data` (a slice, where the network between slices is slow) is a replica with parameters and
optimizer state of its own. After every H inner steps the mean of what they moved is taken as a gradient of the
parameters they started from, and an outer optimizer, SGD with Nesterov momentum, follows it; all go on from there.
Between slices travel one copy of the parameters in H steps, and a few numbers for the log in each.

Douillard et al. 2023, "DiLoCo", algorithm 1; with H=1 and plain SGD inside and outside (outer rate 1) it is
data-parallel SGD.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Batch, Metrics
from jaxllm.parallel.sharding import Layout, Rules, axis_names, use_layout
from jaxllm.training.experiment import OuterConfig
from jaxllm.training.state import TrainState, initial_state, state_shardings
from jaxllm.training.step import Step

REPLICAS = "data"  # the mesh axis along which replicas differ


@struct.dataclass
class LocalState:
    """Takes the optimizer state's place in a `TrainState`, whose `params` are those that all replicas last met at."""

    params: Any  # [R, ...] of each array: where each replica stands
    opt_state: Any  # [R, ...]: its inner optimizer's state
    outer: optax.OptState  # the outer momentum, as the parameters


def outer_optimizer(config: OuterConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, momentum=config.momentum or None, nesterov=config.momentum > 0)


def abstract_local_state(
    spec: Spec, optimizer: optax.GradientTransformation, outer: OuterConfig, layout: Layout
) -> tuple[TrainState, TrainState]:
    """As `state.abstract_state`: shapes with shardings, and the shardings alone."""
    replicas = layout.mesh.shape[REPLICAS]
    shapes = jax.eval_shape(lambda: _initial(spec, optimizer, outer, 0, replicas))
    alone = jax.eval_shape(lambda: initial_state(spec, optimizer, 0, False))
    inside = state_shardings(alone, spec, inner_layout(layout))
    of_each = lambda sharding: NamedSharding(layout.mesh, PartitionSpec(REPLICAS, *sharding.spec))  # noqa: E731
    met = jax.eval_shape(lambda: outer_optimizer(outer).init(alone.params))
    momentum = state_shardings(alone.replace(opt_state=met), spec, inner_layout(layout)).opt_state
    local = LocalState(jax.tree.map(of_each, inside.params), jax.tree.map(of_each, inside.opt_state), momentum)
    shardings = inside.replace(opt_state=local)
    placed = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )
    return placed, shardings


def make_local_state(
    spec: Spec,
    optimizer: optax.GradientTransformation,
    outer: OuterConfig,
    layout: Layout,
    shardings: TrainState,
    *,
    seed: int,
) -> TrainState:
    """All replicas at one point, every array born where its sharding says."""
    replicas = layout.mesh.shape[REPLICAS]
    return jax.jit(lambda: _initial(spec, optimizer, outer, seed, replicas), out_shardings=shardings)()


def make_local_step(inner: Step, outer: OuterConfig, layout: Layout) -> Step:
    """The step of all replicas, with the outer step after every `outer.every` of them.

    `inner` is one replica's own step, from `make_step`. Losses and norms in the metrics are means over replicas. A
    replica whose step was not finite leaves only its own update out.
    """
    replicas = layout.mesh.shape[REPLICAS]
    optimizer = outer_optimizer(outer)
    axes = TrainState(step=None, params=0, opt_state=0, ema=None, key_data=0, skipped=None)
    each = jax.vmap(inner, in_axes=(axes, 0), spmd_axis_name=REPLICAS)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        local: LocalState = state.opt_state
        keys = jax.vmap(lambda r: _fold(state.key_data, r))(jnp.arange(replicas))
        apart = state.replace(params=local.params, opt_state=local.opt_state, key_data=keys)
        rows = jax.tree.map(lambda x: x.reshape(replicas, -1, *x.shape[1:]), batch)
        with use_layout(inner_layout(layout)):
            moved, metrics = each(apart, rows)
        skipped = state.skipped + (moved.skipped - state.skipped).sum()

        def meet(params, local):
            gradient = jax.tree.map(lambda start, now: start - now.mean(0).astype(start.dtype), params, local.params)
            updates, momentum = optimizer.update(gradient, local.outer, params)
            params = optax.apply_updates(params, updates)
            everywhere = jax.tree.map(lambda x: jnp.broadcast_to(x, (replicas, *x.shape)), params)
            return params, local.replace(params=everywhere, outer=momentum)

        local = LocalState(moved.params, moved.opt_state, local.outer)
        step = state.step + 1
        params, local = jax.lax.cond(
            step % outer.every == 0, meet, lambda params, local: (params, local), state.params, local
        )
        new = state.replace(step=step, params=params, opt_state=local, skipped=skipped)
        return new, _of_all(metrics) | {"skipped": skipped}

    return step


def inner_layout(layout: Layout) -> Layout:
    """Within a replica nothing is split over the axis along which replicas differ."""
    tables = {name: getattr(layout, name) for name in ("rules", "gradient_rules", "state_rules")}
    return replace(layout, **{name: rules and _inside(rules) for name, rules in tables.items()})


def _inside(rules: Rules) -> Rules:
    names = {field.name: axis_names(getattr(rules, field.name)) for field in fields(rules)}
    return Rules(**{axis: tuple(n for n in over if n != REPLICAS) or None for axis, over in names.items()})


def _initial(
    spec: Spec, optimizer: optax.GradientTransformation, outer: OuterConfig, seed: int, replicas: int
) -> TrainState:
    state = initial_state(spec, optimizer, seed, False)
    stack = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (replicas, *jnp.shape(x))), tree)  # noqa: E731
    local = LocalState(stack(state.params), stack(state.opt_state), outer_optimizer(outer).init(state.params))
    return state.replace(opt_state=local)


def _fold(key_data: jax.Array, replica: jax.Array) -> jax.Array:
    """Replicas draw different numbers."""
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key_data), replica))


def _of_all(metrics: Metrics) -> Metrics:
    """Of metrics [R]: sums of what is counted, means of the rest."""
    how = {"weight": jnp.sum, "finite": jnp.all}
    return {name: how.get(name, jnp.mean)(values) for name, values in metrics.items()}
