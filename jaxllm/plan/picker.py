"""Which published models fit into some memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from jaxllm.models.presets import PRESETS
from jaxllm.plan.cache import cache_bytes
from jaxllm.plan.parameters import totals

RULE = "weights + caches <= memory; activations of decoding are small beside them, those of a long prefill are not"


@dataclass(frozen=True)
class Candidate:
    """A model and what it needs."""

    name: str
    total: int
    active: int
    weight_bytes: float
    cache_bytes: int
    context_length: int
    """The longest text it was made for."""

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.cache_bytes


def fitting(
    memory: float, context: int, *, batch: int = 1, dtype: str = "bfloat16", weight_bits: float = 0.0
) -> tuple[Candidate, ...]:
    """Presets made for texts of `context` tokens that fit, the largest first.

    `weight_bits` is what a weight takes where that is not the bits of `dtype` (quantized weights: 4.5).
    """
    return tuple(
        candidate
        for candidate in sorted(candidates(context, batch, dtype, weight_bits), key=lambda c: -c.total)
        if candidate.bytes <= memory and candidate.context_length >= context
    )


def candidates(context: int, batch: int, dtype: str, weight_bits: float) -> Iterable[Candidate]:
    bits = weight_bits or {"float32": 32, "bfloat16": 16}[dtype]
    for name, make in PRESETS.items():
        model = replace(make(), compute_dtype=dtype)
        total, active = totals(model)
        cache = cache_bytes(model, context, batch)
        yield Candidate(name, total, active, total * bits / 8, cache, model.context_length)
