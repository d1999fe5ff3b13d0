"""The plan of a model or a run: every number about it that arithmetic can give before it starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from jaxllm.models.config import ModelConfig
from jaxllm.plan import flops, memory, parameters, roofline
from jaxllm.plan.cache import CachePart, cache_parts
from jaxllm.plan.hardware import Hardware, together
from jaxllm.plan.memory import TrainingMemory, state_bytes, training_memory
from jaxllm.plan.parameters import Component, components
from jaxllm.plan.roofline import Phase
from jaxllm.training.experiment import Experiment


@dataclass(frozen=True)
class Scenario:
    """What is asked about a model."""

    context: int = 0
    """Tokens of a text that it reads and continues; 0 means its context_length."""
    batch: int = 1
    """Texts at a time."""
    hardware: Hardware | None = None
    """One device; None leaves times out."""
    devices: int | None = None
    """How many of them; None: as many as the mesh's fixed axes need."""
    train: bool = False
    """Plan a training run too."""
    tokens: float = 0.0
    """To train on; 0 means what the experiment's steps come to."""
    mfu: float = 0.4
    """Part of the peak that training reaches."""
    dollars_per_hour: float | None = None
    """Price of a device."""

    def __post_init__(self):
        for name in ("context", "tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.batch < 1 or (self.devices or 1) < 1:
            raise ValueError("batch and devices must be at least 1")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu is a part of the peak, in (0, 1], got {self.mfu}")


@dataclass(frozen=True)
class TrainingPlan:
    """One optimizer step of a run, and all of them."""

    length: int
    rows: int
    flops_per_token: float
    memory: TrainingMemory
    """Bytes on each device."""
    devices: int
    step: Phase
    total_tokens: float
    total_flops: float
    cost: dict[str, float] | None
    """None without hardware."""


@dataclass(frozen=True)
class Plan:
    """All numbers; FLOPs are of one token."""

    name: str
    dtype: str
    context: int
    batch: int
    components: tuple[Component, ...]
    total: int
    active: int
    weight_bytes: float
    """To hold the model for inference."""
    forward_flops: dict[str, float]
    """On average over a text of `context` tokens."""
    decode_flops: dict[str, float]
    """Of the next token after it."""
    train_flops: float
    cache: tuple[CachePart, ...]
    phases: tuple[Phase, ...]
    training: TrainingPlan | None
    hardware: Hardware | None
    """All devices of inference as one."""

    @property
    def cache_bytes(self) -> int:
        return sum(part.bytes for part in self.cache)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the rules behind them."""
        values = asdict(self) | {"cache_bytes": self.cache_bytes, "rules": rules()}
        phases = (*self.phases, *([self.training.step] if self.training else []))
        values["phases"] = [self._phase(phase) for phase in phases]
        if self.training:
            values["training"]["memory"]["total"] = self.training.memory.total
        return values

    def _phase(self, phase: Phase) -> dict[str, Any]:
        timed = {}
        if self.hardware:
            timed = {"seconds": phase.seconds(self.hardware), "bound": phase.bound(self.hardware)}
        return asdict(phase) | {"intensity": phase.intensity} | timed


def rules() -> dict[str, dict[str, str]]:
    """How each number comes about."""
    return {
        "parameters": {"active": parameters.RULE},
        "flops": flops.RULES,
        "memory": memory.RULES,
        "roofline": roofline.RULES,
    }


def make_plan(experiment: Experiment, scenario: Scenario) -> Plan:
    """The plan of an experiment, whose model may be all that is of interest. Nothing is allocated."""
    model = experiment.model
    context = scenario.context or model.context_length
    parts = components(model)
    devices = scenario.devices or 1
    return Plan(
        name=experiment.name,
        dtype=model.compute_dtype,
        context=context,
        batch=scenario.batch,
        components=parts,
        total=sum(part.total for part in parts),
        active=sum(part.active for part in parts),
        weight_bytes=weight_bytes(model),
        forward_flops=flops.forward_flops(model, context),
        decode_flops=flops.forward_flops(model, context, decoding=True),
        train_flops=flops.train_flops_per_token(model, context),
        cache=cache_parts(model, context, scenario.batch),
        phases=(roofline.prefill(model, context, scenario.batch), roofline.decode(model, context, scenario.batch)),
        training=plan_training(experiment, scenario) if scenario.train else None,
        hardware=scenario.hardware and together(scenario.hardware, devices),
    )


def weight_bytes(model: ModelConfig) -> int:
    """Of all weights, each in the compute type."""
    return flops.parameter_count(model) * jnp.dtype(model.compute_dtype).itemsize


def plan_training(experiment: Experiment, scenario: Scenario) -> TrainingPlan:
    """Of the experiment's batch, sequence length, update rule, remat and mesh."""
    model, training = experiment.model, experiment.training
    used = training_memory(experiment, scenario.devices)
    mesh = memory.abstract_mesh(experiment.mesh, scenario.devices)
    step_tokens = training.batch_size * model.context_length
    step = roofline.train_step(model, model.context_length, step_tokens, *state_bytes(experiment))
    per_token = flops.train_flops_per_token(model, model.context_length)
    tokens = scenario.tokens or step_tokens * training.steps
    cost = None
    if scenario.hardware:
        price = scenario.dollars_per_hour
        cost = roofline.training_cost(per_token * tokens, scenario.hardware, mesh.size, scenario.mfu, price)
    return TrainingPlan(
        length=model.context_length,
        rows=training.batch_size,
        flops_per_token=per_token,
        memory=used,
        devices=mesh.size,
        step=step,
        total_tokens=tokens,
        total_flops=per_token * tokens,
        cost=cost,
    )
