"""What a step compiled ahead of time comes to: as plain values with the rules behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxllm.plan import flops, program_memory, program_time
from jaxllm.plan.ahead import Compiled
from jaxllm.plan.out_of_memory import advice


@dataclass(frozen=True)
class Cost:
    """Of training, at best and at worst as in `Timing`."""

    dollars_per_chip_hour: float
    source: str
    best_per_million_tokens: float
    worst_per_million_tokens: float


def cost(compiled: Compiled, dollars_per_hour: float | None) -> Cost | None:
    """With the price of a chip and hour that the user names, else the list price; None where neither is known."""
    topology, timing = compiled.topology, compiled.timing
    price, source = dollars_per_hour, "as you said"
    if price is None:
        price, source = topology.generation.dollars, "list price on demand, US, 2025; --dollars-per-hour names another"
    if price is None:
        return None
    per_second = price * topology.chips / 3600 / compiled.tokens * 1e6
    return Cost(price, source, per_second * timing.best, per_second * timing.worst)


def verdict(compiled: Compiled) -> tuple[str, ...]:
    """That it fits, or the compiler would have refused it; where it hardly does, what would make room."""
    memory = compiled.memory
    share = memory.peak / memory.limit
    left = (memory.limit - memory.peak) / 2**30
    lines = [f"fits: {share:.0%} of what there is at the peak, {left:,.2f} GiB left"]
    if share > 0.95:
        lines += [f"to make room: {line}" for line in advice(compiled.experiment, compiled.batch_shards)[:3]]
    return tuple(lines)


def rules() -> dict[str, Any]:
    return {
        "memory": program_memory.RULES,
        "time": program_time.RULES,
        "flops": {"model": flops.RULES, "xla": "the compiler's cost_analysis: the body of a loop once"},
    }


def to_json(compiled: Compiled, dollars_per_hour: float | None = None) -> dict[str, Any]:
    """All numbers, of one device and one step unless their name says otherwise."""
    topology, timing, price = compiled.topology, compiled.timing, cost(compiled, dollars_per_hour)
    return {
        "name": compiled.experiment.name,
        "topology": {
            "name": topology.name,
            "accelerator": topology.accelerator,
            "slices": topology.slices,
            "chips": topology.chips,
            "devices": topology.devices,
        },
        "mesh": compiled.mesh,
        "tokens_per_step": compiled.tokens,
        "lower_seconds": compiled.lower_seconds,
        "compile_seconds": compiled.compile_seconds,
        "fits": True,
        "memory": asdict(compiled.memory) | {"total": compiled.memory.total},
        "flops": {"model": compiled.model_flops, "program": timing.flops, "xla": compiled.xla_flops},
        "collectives": [asdict(row) for row in compiled.traffic],
        "time": asdict(timing) | {"best": timing.best, "worst": timing.worst, "bound": timing.bound},
        "tokens_per_second_per_chip": {
            "best": compiled.tokens / topology.chips / timing.best,
            "worst": compiled.tokens / topology.chips / timing.worst,
        },
        "cost": price and asdict(price),
        "rules": rules(),
    }
