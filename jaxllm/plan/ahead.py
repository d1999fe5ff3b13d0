"""The real training step, compiled for devices that are not here, and what that says about a run.

Nothing is allocated: shapes and shardings go to the compiler, its program comes back and is read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh

from jaxllm.models.decoder import decoder_spec
from jaxllm.parallel.hlo import parse_module
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, layout_of
from jaxllm.plan.flops import train_flops_per_token
from jaxllm.plan.out_of_memory import out_of_memory
from jaxllm.plan.program_memory import ProgramMemory, program_memory
from jaxllm.plan.program_time import Timing, Traffic, timing, traffic
from jaxllm.plan.topology import Topology, compile_only_devices
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import pretraining_objective
from jaxllm.training.program import step_program


@dataclass(frozen=True)
class Compiled:
    """A step compiled ahead of time. Bytes, operations and seconds are of one device and one optimizer step."""

    experiment: Experiment
    topology: Topology
    mesh: dict[str, int]
    batch_shards: int
    """Into how many parts the batch is split."""
    lower_seconds: float
    compile_seconds: float
    memory: ProgramMemory
    model_flops: float
    """By jaxllm/plan/flops.py: no recomputation, causal scores half."""
    xla_flops: float
    """As the compiler's cost_analysis has them, which counts the body of a loop once."""
    traffic: tuple[Traffic, ...]
    timing: Timing
    hlo: str
    """The program's text."""

    @property
    def tokens(self) -> int:
        """Of a step, on all devices."""
        return self.experiment.training.batch_size * self.experiment.model.context_length


def compile_for(experiment: Experiment, topology: Topology) -> Compiled:
    """Compile an experiment's training step, its optimizer included, for a topology.

    Raises ValueError where libtpu is absent, where the mesh does not fit the devices, the model or the batch, and
    OutOfMemory, one of them, where the program does not fit into the devices' memory.
    """
    layout = layout_of(experiment.mesh, topology_mesh(experiment.mesh, topology, compile_only_devices(topology)))
    spec = decoder_spec(experiment.model)
    program = step_program(experiment, spec, pretraining_objective(experiment.model, experiment.training), layout)
    start = time.perf_counter()
    lowered = program.lower()
    lowered_at = time.perf_counter()
    with _memory_errors(experiment, layout):
        compiled = lowered.compile()
    done = time.perf_counter()
    text = compiled.as_text()
    module = parse_module(text)
    found = traffic(module, layout.mesh, topology)
    model_flops = _model_flops(experiment) / topology.devices
    return Compiled(
        experiment=experiment,
        topology=topology,
        mesh=dict(layout.mesh.shape),
        batch_shards=layout.batch_shards,
        lower_seconds=lowered_at - start,
        compile_seconds=done - lowered_at,
        memory=program_memory(experiment, program, layout, compiled.memory_analysis(), topology),
        model_flops=model_flops,
        xla_flops=compiled.cost_analysis()["flops"],
        traffic=found,
        timing=timing(module, found, model_flops, topology),
        hlo=text,
    )


def topology_mesh(config: MeshConfig, topology: Topology, devices: list[Any]) -> Mesh:
    """The mesh of a run on these devices; of several slices the data axis alone reaches from one into another.

    Raises ValueError where the axes do not multiply to the devices, or cannot be laid along the torus.
    """
    try:
        return make_mesh(replace(config, slices=topology.slices), devices)
    except NotImplementedError as error:
        sizes = " x ".join(f"{name}={size}" for name, size in config.sizes().items() if size != 1)
        raise ValueError(
            f"the mesh {sizes} can't be laid along the torus {topology.name}: an axis is a product of whole dimensions "
            f"({', '.join(map(str, topology.shape))}), so that its devices are neighbours. Change --mesh.* or the shape"
        ) from error


def _model_flops(experiment: Experiment) -> float:
    length = experiment.model.context_length
    return train_flops_per_token(experiment.model, length) * length * experiment.training.batch_size


@contextmanager
def _memory_errors(experiment: Experiment, layout: Layout) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        explained = out_of_memory(str(error), experiment, layout.batch_shards)
        if explained is None:
            raise
        raise explained from error
