"""What training carries from step to step: one pytree, donated to each step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.models.declare import Spec, initialize
from jaxllm.parallel.sharding import Layout, param_shardings
from jaxllm.quantize.low_precision import Histories
from jaxllm.training.loss_scale import LossScale
from jaxllm.training.precision import FULL, Precision

HOST_MEMORY = "pinned_host"


@struct.dataclass
class TrainState:
    step: jax.Array  # int32: optimizer steps done, skipped ones included
    params: Any
    opt_state: Any
    ema: Any  # a moving average of params, or None
    key_data: jax.Array  # uint32: the run's random key, folded with the step wherever randomness is needed
    skipped: jax.Array  # int32: steps left out because loss or gradient norm was not finite
    loss_scale: LossScale | None = None  # of float16
    histories: Histories | None = None  # of delayed scaling: largest magnitudes in the steps before


def initial_state(
    spec: Spec, optimizer: optax.GradientTransformation, seed: int, ema: bool, precision: Precision = FULL
) -> TrainState:
    """Pure in the seed; jit it with `state_shardings` to have every array born in its place."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = initialize(spec, init_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=precision.store_params(params),
        opt_state=precision.store_moments(optimizer.init(params)),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        key_data=jax.random.key_data(run_key),
        skipped=jnp.zeros((), jnp.int32),
        loss_scale=precision.loss_scale(),
        histories=precision.histories(),
    )


def state_shardings(state: TrainState, spec: Spec, layout: Layout, *, offload_optimizer: bool = False) -> TrainState:
    """A sharding for each leaf of the (abstract) state.

    What the optimizer keeps in a parameter's image (same path end, same shape) lies as the layout's state rules say,
    in host memory if it is offloaded, and so does a moving average, on the device; all else is replicated. Raises
    ValueError where devices have no such memory.
    """
    if offload_optimizer:
        _check_host_memory(layout)
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
                return sharding.with_memory_kind(HOST_MEMORY) if offload_optimizer else sharding
        return replicated

    opt_state = jax.tree_util.tree_map_with_path(place, state.opt_state)
    small = jax.tree.map(lambda _: replicated, (state.loss_scale, state.histories))
    ema = None if state.ema is None else state_images
    return TrainState(replicated, params, opt_state, ema, replicated, replicated, *small)


def _check_host_memory(layout: Layout) -> None:
    devices = layout.mesh.devices.flat if isinstance(layout.mesh, Mesh) else ()  # an abstract mesh has none to ask
    for device in devices:
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST_MEMORY not in kinds:
            raise ValueError(
                f"training.offload_optimizer needs {HOST_MEMORY} memory, but {device.device_kind} has "
                f"{', '.join(kinds)}: set it to false"
            )


def make_state(
    spec: Spec,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    *,
    seed: int,
    ema: bool,
    precision: Precision = FULL,
) -> TrainState:
    """The initial state, every array born where its sharding says."""
    return jax.jit(lambda: initial_state(spec, optimizer, seed, ema, precision), out_shardings=shardings)()


def abstract_state(
    spec: Spec,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    *,
    seed: int = 0,
    ema: bool = False,
    precision: Precision = FULL,
    offload_optimizer: bool = False,
) -> tuple[TrainState, TrainState]:
    """Shapes with shardings, and the shardings alone; nothing is allocated."""
    shapes = jax.eval_shape(lambda: initial_state(spec, optimizer, seed, ema, precision))
    shardings = state_shardings(shapes, spec, layout, offload_optimizer=offload_optimizer)
    placed = jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )
    return placed, shardings
