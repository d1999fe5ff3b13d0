"""Parameters by component, all of them and those that a token uses, from the declarations alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax

from jaxllm.models.config import Block, ModelConfig, MoEConfig
from jaxllm.models.declare import Param
from jaxllm.models.decoder import decoder_spec

RULE = "active: all parameters but those of experts that a token is not sent to"


@dataclass(frozen=True)
class Component:
    """A kind of part, summed over the model."""

    name: str
    total: int
    """Parameters."""
    active: int
    """Parameters that take part in the work on one token."""


def components(config: ModelConfig) -> tuple[Component, ...]:
    """The model by component, in the order of its parameters; totals add up to `declare.count`."""
    sums: dict[str, tuple[int, int]] = {}
    for path, param, block in declared(config):
        name, active = component_of(path, block), round(param.size * active_share(path, block))
        total_so_far, active_so_far = sums.get(name, (0, 0))
        sums[name] = total_so_far + param.size, active_so_far + active
    return tuple(Component(name, total, active) for name, (total, active) in sums.items())


def totals(config: ModelConfig) -> tuple[int, int]:
    """(all parameters, active parameters)."""
    parts = components(config)
    return sum(part.total for part in parts), sum(part.active for part in parts)


def declared(config: ModelConfig) -> Iterator[tuple[tuple[str, ...], Param, Block | None]]:
    """Every parameter with its path and, within a layer, the block it belongs to."""
    segments = config.segments()
    for keys, param in jax.tree_util.tree_leaves_with_path(decoder_spec(config)):
        path = tuple(jax.tree_util.keystr(keys, simple=True, separator=".").split("."))
        block = None
        if path[0] == "segments":
            block = segments[int(path[1])].blocks[int(path[2])]
        elif path[0] == "multi_token":
            block = config.resolve(config.pattern[-1])
        yield path, param, block


def component_of(path: tuple[str, ...], block: Block | None) -> str:
    """What a parameter is counted under."""
    if path[0] == "multi_token":
        return "multi-token modules"
    if path[0] != "segments":
        named = {"embedding": "embedding", "head": "head", "head_bias": "head", "norm": "norms"}
        return named.get(path[0], "norms" if path[0].endswith("_norm") else "positions and types")
    part, rest = path[3], path[4:]
    if part.endswith("_norm"):
        return "norms"
    if part == "mixer":
        return block.mixer.kind
    if isinstance(block.channel, MoEConfig):
        return {"experts": "routed experts", "shared": "shared experts"}.get(rest[0], "router")
    return block.channel.kind


def active_share(path: tuple[str, ...], block: Block | None) -> float:
    """The part of a parameter that the work on one token takes."""
    if block is None or "experts" not in path or not isinstance(block.channel, MoEConfig):
        return 1.0
    experts = block.channel
    # Experts that choose their tokens take capacity_factor times an even share of them.
    slots = experts.top_k * (experts.capacity_factor if experts.router == "expert_choice" else 1)
    return min(1.0, slots / experts.num_experts)
