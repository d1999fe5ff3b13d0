"""How long a device must take at least: for the operations, or for the bytes that travel from its memory.

Source: the roofline model, Williams et al. 2009. What is left out makes the real time longer: activations on their way
through memory, communication, kernels that reach less than the peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxllm.models.config import ModelConfig, MoEConfig
from jaxllm.plan.cache import cache_bytes, cache_parts
from jaxllm.plan.flops import forward_flops, train_flops_per_token
from jaxllm.plan.hardware import Hardware
from jaxllm.plan.parameters import active_share, declared

RULES = {
    "prefill": "forward operations of all tokens; bytes: weights once, the cache written",
    "decode": "operations of one token a row; bytes: weights that the rows' tokens use, the cache read",
    "train": "3 times the forward operations; bytes: weights read twice, gradients written and read, the optimizer's "
    "state and the weights read and written",
}


@dataclass(frozen=True)
class Phase:
    """One step of some work."""

    name: str
    tokens: int
    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.bytes

    def seconds(self, hardware: Hardware) -> float:
        """The longer of both times."""
        return max(self.flops / hardware.flops, self.bytes / hardware.bandwidth)

    def bound(self, hardware: Hardware) -> str:
        """What it waits for."""
        return "compute" if self.intensity >= hardware.balance else "memory"


def prefill(model: ModelConfig, context: int, batch: int) -> Phase:
    """Reading `batch` prompts of `context` tokens into an empty cache."""
    tokens = context * batch
    flops = tokens * sum(forward_flops(model, context).values())
    return Phase("prefill", tokens, flops, weights_read(model, tokens) + cache_bytes(model, context, batch))


def decode(model: ModelConfig, context: int, batch: int) -> Phase:
    """One further token for each of `batch` rows of `context` tokens."""
    flops = batch * sum(forward_flops(model, context, decoding=True).values())
    read = sum(part.read for part in cache_parts(model, context, batch))
    return Phase("decode", batch, flops, weights_read(model, batch) + read)


def train_step(model: ModelConfig, length: int, tokens: int, weight_bytes: int, optimizer_bytes: int) -> Phase:
    """One optimizer step over `tokens`, in sequences of `length`; bytes of the state on all devices together."""
    moved = 2 * weight_bytes + 2 * weight_bytes + 2 * (optimizer_bytes + weight_bytes)
    return Phase("train", tokens, tokens * train_flops_per_token(model, length), moved)


def weights_read(model: ModelConfig, tokens: int) -> float:
    """Bytes of the weights that a step over `tokens` uses, in the compute type: all but tables that are looked up, and
    of experts the share that is expected when each token chooses evenly."""
    total = 0.0
    for path, param, block in declared(model):
        if {"vocab", "position"} & set(param.axes) and path[0] != "head":
            if path[0] == "embedding" and model.tie_embeddings:
                total += param.size
            continue
        share = active_share(path, block)
        if share < 1 and isinstance(block.channel, MoEConfig):
            share = 1 - (1 - share) ** tokens
        total += param.size * share
    return total * jnp.dtype(model.compute_dtype).itemsize


def training_cost(
    flops: float, hardware: Hardware, devices: int, mfu: float, dollars_per_hour: float | None
) -> dict[str, float]:
    """Device hours, days on `devices` and dollars to spend `flops` at a model FLOPs utilization of `mfu`."""
    hours = flops / (hardware.flops * mfu) / 3600
    cost = {"flops": flops, "device_hours": hours, "days": hours / devices / 24}
    return cost if dollars_per_hour is None else cost | {"dollars": hours * dollars_per_hour}
