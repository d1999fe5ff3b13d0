"""Memory of a training run on each device: what its state takes, exactly, and its activations, by a stated rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import jax
from jax.sharding import AbstractMesh

from jaxllm.models.decoder import decoder_spec
from jaxllm.objectives.cross_entropy import CHUNK_ELEMENTS, CHUNK_POSITIONS
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import layout_of, param_shardings
from jaxllm.plan import activations
from jaxllm.training.experiment import Experiment
from jaxllm.training.optimizers import make_optimizer
from jaxllm.training.program import place_state
from jaxllm.training.state import HOST_MEMORY, abstract_state

RULES = {
    "weights": "in the type they are kept in, as the state's shardings divide them",
    "gradients": "as the weights, divided as mesh.zero says; with accumulation their float32 sum besides",
    "optimizer": "the arrays that the update rule keeps, on the device or in host memory",
    "host": "optimizer state and activations that are offloaded; not in the total of the device",
    "average": "a copy of the weights where training.ema_decay is set",
    "activations": activations.RULE,
    "loss": "two float32 chunks [n, V] of max(2^22 / V, 1024) positions, the stream and its gradient",
}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    kept_activations: int
    working_activations: int
    loss: int
    host: int = 0
    """In the host memory of each device, not on it."""

    @property
    def total(self) -> int:
        """On the device."""
        return sum(getattr(self, field.name) for field in fields(self)) - self.host


def training_memory(experiment: Experiment, devices: int | None = None) -> TrainingMemory:
    """Of an experiment on its mesh over `devices` (default: what the fixed axes of the mesh need).

    Activations are divided over the axes that split the batch and the text, not over the others: with tensor
    parallelism and in a pipeline the real ones are smaller. Raises ValueError when the mesh does not fit the devices,
    the model or the batch.
    """
    layout, training = layout_of(experiment.mesh, abstract_mesh(experiment.mesh, devices)), experiment.training
    model = experiment.model
    placed = place_state(experiment, decoder_spec(model), layout)
    spec, state = placed.spec, placed.state
    rows = _rows(training.batch_size // training.accumulation, layout.batch_shards)
    length = model.context_length // layout.ways("length")
    layers = activations.activations(model, rows, length, training.remat)
    weights, moments = bytes_here(state.params), bytes_here(state.opt_state)
    offloaded = bytes_here(
        [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.sharding.memory_kind == HOST_MEMORY]
    )
    lie = jax.tree.leaves(param_shardings(spec, layout, layout.gradient_rules))
    sizes = [math.prod(sharding.shard_shape(p.shape)) for p, sharding in zip(jax.tree.leaves(spec), lie, strict=True)]
    widths = [leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params)]
    summed = 4 * sum(sizes) if training.accumulation > 1 else 0
    return TrainingMemory(
        weights=weights,
        gradients=sum(size * width for size, width in zip(sizes, widths, strict=True)) + summed,
        optimizer=moments - offloaded,
        average=bytes_here(state.ema),
        kept_activations=layers.kept,
        working_activations=layers.working,
        loss=_loss(model, rows, length),
        host=offloaded + layers.host,
    )


def memory_report(experiment: Experiment, devices: int | None = None) -> tuple[str, ...]:
    """Where the bytes of a step go, as lines for a person. Raises as `training_memory` does."""
    used = training_memory(experiment, devices)
    parts = {
        "parameters": used.weights + used.average,
        "gradients": used.gradients,
        "optimizer state": used.optimizer,
        f"activations (remat {experiment.training.remat})": used.kept_activations + used.working_activations,
        "loss": used.loss,
        "in host memory": used.host,
    }
    named = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in parts.items() if size)
    return (f"by arithmetic, MiB per device: {named}",)


def state_bytes(experiment: Experiment) -> tuple[int, int]:
    """(weights, optimizer) on all devices together, replicas counted once."""
    spec = decoder_spec(experiment.model)
    optimizer = make_optimizer(experiment.optimizer, spec, experiment.training.steps, experiment.model)
    state, _ = abstract_state(spec, optimizer, layout_of(MeshConfig(data=1), abstract_mesh(MeshConfig(data=1))))
    return bytes_here(state.params), bytes_here(state.opt_state)


def abstract_mesh(config: MeshConfig, devices: int | None = None) -> AbstractMesh:
    """The mesh of a config without devices to put it on; an axis of -1 takes what the others leave."""
    sizes = config.sizes()
    fixed = math.prod(size for size in sizes.values() if size != -1)
    total = fixed if devices is None else devices
    free = -1 in sizes.values()
    if total % fixed if free else total != fixed:
        raise ValueError(f"a mesh of {sizes} does not fit {total} devices: change --devices or --mesh.*")
    sizes = {name: total // fixed if size == -1 else size for name, size in sizes.items()}
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def _rows(microbatch: int, shards: int) -> int:
    if microbatch % shards:
        raise ValueError(
            f"a microbatch of {microbatch} rows can't be divided over {shards} devices: raise training.batch_size, or "
            "lower training.accumulation or the mesh's data and fsdp axes"
        )
    return microbatch // shards


def bytes_here(tree: Any) -> int:
    """Of the part of each array that lies on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _loss(model, rows: int, length: int) -> int:
    positions = min(rows * length, max(CHUNK_ELEMENTS // model.vocab_size, CHUNK_POSITIONS))
    itemsize = jax.numpy.dtype(model.compute_dtype).itemsize
    return 2 * 4 * positions * model.vocab_size + 2 * rows * length * model.d_model * itemsize
