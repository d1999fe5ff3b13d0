"""What training carries from step to step: one pytree, donated to each step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.models.declare import Spec, initialize
from jaxllm.parallel.sharding import Layout, param_shardings


@struct.dataclass
class TrainState:
    step: jax.Array  # int32: optimizer steps done, skipped ones included
    params: Any
    opt_state: Any
    ema: Any  # a moving average of params, or None
    key_data: jax.Array  # uint32: the run's random key, folded with the step wherever randomness is needed
    skipped: jax.Array  # int32: steps left out because loss or gradient norm was not finite


def initial_state(spec: Spec, optimizer: optax.GradientTransformation, seed: int, ema: bool) -> TrainState:
    """Pure in the seed; jit it with `state_shardings` to have every array born in its place."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = initialize(spec, init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        key_data=jax.random.key_data(run_key),
        skipped=jnp.zeros((), jnp.int32),
    )


def state_shardings(state: TrainState, spec: Spec, layout: Layout) -> TrainState:
    """A sharding for each leaf of the (abstract) state.

    What the optimizer keeps in a parameter's image (same path end, same shape) lies as the layout's state rules say,
    and so does a moving average; all else is replicated.
    """
    params, state_images = param_shardings(spec, layout), param_shardings(spec, layout, layout.state_rules)
    replicated = NamedSharding(layout.mesh, PartitionSpec())
    declared = jax.tree_util.tree_leaves_with_path(spec)
    images = {
        path: (param.shape, sharding)
        for (path, param), sharding in zip(declared, jax.tree.leaves(state_images), strict=True)
    }

    def place(path, leaf):
        for start in range(len(path)):
            shape, sharding = images.get(path[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated

    opt_state = jax.tree_util.tree_map_with_path(place, state.opt_state)
    return TrainState(
        replicated, params, opt_state, None if state.ema is None else state_images, replicated, replicated
    )


def make_state(
    spec: Spec, optimizer: optax.GradientTransformation, shardings: TrainState, *, seed: int, ema: bool
) -> TrainState:
    """The initial state, every array born where its sharding says."""
    return jax.jit(lambda: initial_state(spec, optimizer, seed, ema), out_shardings=shardings)()


def abstract_state(
    spec: Spec, optimizer: optax.GradientTransformation, layout: Layout, *, seed: int = 0, ema: bool = False
) -> tuple[TrainState, TrainState]:
    """Shapes with shardings, and the shardings alone; nothing is allocated."""
    shapes = jax.eval_shape(lambda: initial_state(spec, optimizer, seed, ema))
    shardings = state_shardings(shapes, spec, layout)
    placed = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )
    return placed, shardings
