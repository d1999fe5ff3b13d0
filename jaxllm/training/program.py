"""The training step as a program for named devices: what the loop runs and the planner compiles for devices that are
not here."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import optax

from jaxllm.models.declare import Spec
from jaxllm.objectives.next_token import Objective
from jaxllm.objectives.routing import settle_routing
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import Experiment
from jaxllm.training.optimizers import make_optimizer, make_schedule
from jaxllm.training.state import TrainState, abstract_state
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

    def lower(self) -> jax.stages.Lowered:
        return self.step.lower(self.state, self.batch)


def step_program(experiment: Experiment, spec: Spec, objective: Objective, layout: Layout) -> StepProgram:
    """The step of an experiment, its optimizer included, on the layout's devices; these need not be attached.

    Raises ValueError where the mesh does not divide the model or its batch.
    """
    check_batch(experiment, layout)
    model, training = experiment.model, experiment.training
    optimizer = make_optimizer(experiment.optimizer, spec, training.steps, model)
    state, shardings = abstract_state(spec, optimizer, layout, ema=training.ema_decay > 0)
    step = make_step(
        objective,
        optimizer,
        make_schedule(experiment.optimizer, training.steps),
        training,
        dropout=model.dropout > 0 or model.residual.stochastic_depth > 0,
        after_update=settle_routing(model),
    )
    shape, sharding = (training.batch_size, model.context_length), layout.sharding("batch", "length")
    batch = {name: jax.ShapeDtypeStruct(shape, kind, sharding=sharding) for name, kind in BATCH_TYPES.items()}
    return StepProgram(jit_step(step, layout, shardings), optimizer, state, shardings, batch)


def check_batch(experiment: Experiment, layout: Layout) -> None:
    """Raises ValueError where a microbatch can't be split over the devices."""
    rows = experiment.training.batch_size // experiment.training.accumulation
    if rows % layout.batch_shards:
        raise ValueError(
            f"a microbatch of {rows} rows (training.batch_size / training.accumulation) cannot be split over the "
            f"{layout.batch_shards} devices of the data and fsdp axes: make it a multiple of {layout.batch_shards}, "
            "or change the mesh"
        )
