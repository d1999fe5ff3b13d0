"""Where the memory of a compiled step goes, by kind, on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxllm.parallel.sharding import Layout
from jaxllm.plan.memory import bytes_here, training_memory
from jaxllm.plan.topology import GIB, Topology
from jaxllm.training.experiment import Experiment
from jaxllm.training.program import StepProgram

RULES = {
    "parameters": "float32, as the state's shardings divide them",
    "optimizer": "what the update rule keeps, likewise",
    "average": "a copy of the parameters where training.ema_decay is set",
    "batch": "tokens, targets, weights, segments and positions of one step; counters",
    "padding": "what the compiler's layouts add to these arguments",
    "results": "metrics; the new state takes the place of the old one",
    "temporaries": "gradients, activations, gathered weights and workspace, as the compiler placed them",
    "gradients": "of the temporaries, by rule: float32, divided as the parameters are; twice that with accumulation",
    "activations": "of the temporaries, by rule: what the forward pass hands to the backward pass; not divided over "
    "the tensor axis, so more than there is with one",
    "code": "the program itself",
    "peak": "the most that lives at one time, arguments included, by the compiler's account; the sum above is more "
    "where temporaries share a place. A program that does not fit is refused by the compiler",
}


@dataclass(frozen=True)
class ProgramMemory:
    """Bytes on one device. All but those by rule add up to the total."""

    parameters: int
    optimizer: int
    average: int
    batch: int
    padding: int
    results: int
    temporaries: int
    code: int
    gradients: int
    """Of the temporaries, by rule."""
    activations: int
    """Of the temporaries, by rule."""
    peak: int
    """The most that lives at one time."""
    limit: int
    """What the compiler leaves to programs."""

    @property
    def total(self) -> int:
        return (
            self.parameters
            + self.optimizer
            + self.average
            + self.batch
            + self.padding
            + self.results
            + self.temporaries
            + self.code
        )


def program_memory(
    experiment: Experiment, program: StepProgram, layout: Layout, analysis: Any, topology: Topology
) -> ProgramMemory:
    """`analysis` is the compiled step's `memory_analysis()`."""
    state = program.state
    parameters, optimizer, average = (bytes_here(part) for part in (state.params, state.opt_state, state.ema))
    batch = bytes_here((program.batch, state.step, state.key_data, state.skipped))
    by_rule = training_memory(experiment, layout.mesh.size)
    return ProgramMemory(
        parameters=parameters,
        optimizer=optimizer,
        average=average,
        batch=batch,
        padding=analysis.argument_size_in_bytes - parameters - optimizer - average - batch,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        gradients=by_rule.gradients,
        activations=by_rule.kept_activations + by_rule.working_activations,
        peak=analysis.peak_memory_in_bytes,
        limit=round(topology.generation.hbm * GIB),
    )
