"""The training step as a program for named devices: what the loop runs and the planner compiles for devices that are
not here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Objective
from jaxllm.objectives.routing import settle_routing
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import Experiment
from jaxllm.training.gradients import laid_out, pipelined
from jaxllm.training.local_sgd import abstract_local_state, make_local_state, make_local_step
from jaxllm.training.mesh_fit import check_mesh
from jaxllm.training.optimizers import make_optimizer, make_schedule
from jaxllm.training.precision import Precision, make_precision
from jaxllm.training.state import TrainState, abstract_state, make_state
from jaxllm.training.step import Step, jit_step, make_step

BATCH_TYPES = {
    "tokens": "int32",
    "targets": "int32",
    "weights": "float32",
    "segment_ids": "int32",
    "positions": "int32",
}


@dataclass(frozen=True)
class StepProgram:
    """A step and the shapes it is for. Nothing is allocated."""

    step: Step
    """Jitted: the state is donated."""
    optimizer: optax.GradientTransformation
    state: TrainState
    """Shapes with shardings."""
    shardings: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    initial: Callable[[int], TrainState]
    """The state to begin with, of a seed, every array born in its place."""

    def lower(self) -> jax.stages.Lowered:
        return self.step.lower(self.state, self.batch)


@dataclass(frozen=True)
class Placed:
    """An experiment's state as it lies on a layout."""

    spec: Spec
    """The declarations, those of a pipeline's layers split over its ranks."""
    optimizer: optax.GradientTransformation
    precision: Precision
    state: TrainState
    """Shapes with shardings."""
    shardings: TrainState
    initial: Callable[[int], TrainState]
    """Of a seed, every array born in its place."""


def place_state(experiment: Experiment, spec: Spec, layout: Layout) -> Placed:
    """Nothing is allocated, and the mesh may be an abstract one.

    Raises ValueError where the mesh does not divide the model, and for settings that do not go together.
    """
    model, training, outer = experiment.model, experiment.training, experiment.outer
    optimizer = make_optimizer(experiment.optimizer, spec, training.steps, model)
    spec = laid_out(spec, model, experiment.pipeline, training.accumulation, layout)
    precision = make_precision(experiment.precision, spec, model.compute_dtype)
    if outer.every:
        _check_outer(experiment)
        state, shardings = abstract_local_state(spec, optimizer, outer, layout)
        initial = lambda seed: make_local_state(spec, optimizer, outer, layout, shardings, seed=seed)  # noqa: E731
    else:
        kept = {"ema": training.ema_decay > 0, "precision": precision}
        state, shardings = abstract_state(spec, optimizer, layout, offload_optimizer=training.offload_optimizer, **kept)
        initial = lambda seed: make_state(spec, optimizer, shardings, seed=seed, **kept)  # noqa: E731
    return Placed(spec, optimizer, precision, state, shardings, initial)


def step_program(experiment: Experiment, spec: Spec, objective: Objective, layout: Layout) -> StepProgram:
    """The step of an experiment, its optimizer included, on the layout's devices; these need not be attached.

    Raises ValueError where the mesh and the experiment do not go together.
    """
    check_mesh(experiment, layout.mesh.shape)
    model, training = experiment.model, experiment.training
    placed = place_state(experiment, spec, layout)
    common = {"spec": placed.spec, "precision": placed.precision}
    through_pipeline = None
    if layout.mesh.shape["pipeline"] > 1:
        through_pipeline = pipelined(objective, training.accumulation, experiment.pipeline, layout, **common)
    step = make_step(
        objective,
        placed.optimizer,
        make_schedule(experiment.optimizer, training.steps),
        training,
        dropout=model.dropout > 0 or model.residual.stochastic_depth > 0,
        after_update=settle_routing(model),
        gradients=through_pipeline,
        **common,
    )
    if experiment.outer.every:
        step = make_local_step(step, experiment.outer, layout)
    shape, sharding = (training.batch_size, model.context_length), layout.sharding("batch", "length")
    batch = {name: jax.ShapeDtypeStruct(shape, kind, sharding=sharding) for name, kind in BATCH_TYPES.items()}
    jitted = jit_step(step, layout, placed.shardings)
    return StepProgram(jitted, placed.optimizer, placed.state, placed.shardings, batch, placed.initial)


def _check_outer(experiment: Experiment) -> None:
    """Replicas that train apart average by themselves, and are copies of one plain state."""
    apart = {
        "training.ema_decay": experiment.training.ema_decay > 0,
        "optimizer.kind=schedule_free": experiment.optimizer.kind == "schedule_free",
        "mesh.pipeline": experiment.mesh.pipeline > 1,
        "model.compute_dtype=float16": experiment.model.compute_dtype == "float16",
        "precision": experiment.precision != type(experiment.precision)(),
        "training.offload_optimizer": experiment.training.offload_optimizer,
    }
    if any(apart.values()):
        raise ValueError(
            "outer.every (replicas that train apart) does not go together with "
            f"{', '.join(name for name, asked in apart.items() if asked)}: set outer.every=0, or change that"
        )
