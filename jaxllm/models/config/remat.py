"""Rematerialization: what the backward pass keeps of each layer, by a name that a command line can hold.

A policy is `NAME` or `NAME:ARGUMENT`: `full`, `every:4`, `names:qkv,mlp_in`, `offload:block_in`. Over the depth of a
model they are joined by `+`, each but the last with the number of layers it holds for: `full*24 + none`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

PolicyName = Literal["none", "full", "every", "sqrt", "dots", "attention", "names", "offload", "offload_dots"]

POLICIES: dict[str, str] = {
    "none": "everything is kept",
    "full": "each layer's input is kept, the rest computed again",
    "every": "the input of every k-th layer is kept (every:k)",
    "sqrt": "every k-th with k near the root of the number of layers",
    "dots": "results of products with weights are kept",
    "attention": "all but what is inside softmax attention (scores, weights) is kept",
    "names": "the named values are kept (names:qkv,mlp_in)",
    "offload": "the named values wait in host memory (offload:block_in, which is the default)",
    "offload_dots": "results of products with weights wait in host memory",
}

# The values that layers name, where a policy may keep them.
NAMES: dict[str, str] = {
    "block_in": "the stream that enters a block",
    "qkv": "queries, keys and values as they meet",
    "attention": "what the heads of attention made, before the projection out",
    "mixer_out": "the sequence mixer's branch",
    "mlp_in": "both sides of an MLP before its activation",
    "mlp_hidden": "what enters its projection out",
    "channel_out": "the channel mixer's branch",
}


@dataclass(frozen=True)
class RematConfig:
    """One policy and the layers it holds for."""

    policy: PolicyName
    every: int = 1
    """Layers of a group whose input alone is kept (steps of the scan: a pattern of several blocks is one)."""
    names: tuple[str, ...] = ()
    """Values that are kept or offloaded."""
    layers: int | None = None
    """How many layers it holds for; None: all that follow."""


@cache
def parse_remat(text: str) -> tuple[RematConfig, ...]:
    """The policies that a setting stands for, from the first layer on; the last holds for all that follow.

    Raises ValueError naming the part that says nothing.
    """
    parts = [part.strip() for part in text.split("+")]
    configs = tuple(_parse_part(part) for part in parts)
    for part, config in zip(parts[:-1], configs, strict=False):
        if config.layers is None:
            raise ValueError(f"remat {text!r}: {part!r} must say for how many layers it holds: {part}*8 + ...")
    if configs[-1].layers is not None:
        raise ValueError(f"remat {text!r}: the last policy holds for all layers that follow: leave its number away")
    return configs


def _parse_part(part: str) -> RematConfig:
    policy, layers = part, None
    if "*" in part:
        policy, _, number = (word.strip() for word in part.partition("*"))
        layers = _positive(part, number)
    name, _, argument = (word.strip() for word in policy.partition(":"))
    if name not in get_args(PolicyName):
        raise ValueError(f"unknown remat policy {name!r}: expected one of {', '.join(POLICIES)}")
    match name:
        case "every":
            return RematConfig("every", every=_positive(part, argument), layers=layers)
        case "names" | "offload":
            names = _names(part, argument or ("block_in" if name == "offload" else ""))
            return RematConfig(name, names=names, layers=layers)
    if argument:
        raise ValueError(f"remat policy {name!r} takes no argument, got {part!r}")
    return RematConfig(name, layers=layers)


def _positive(part: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"remat {part!r} needs a number of layers, at least 1 (every:4, full*8), got {number!r}")
    return int(number)


def _names(part: str, argument: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in argument.split(",") if name.strip())
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise ValueError(
            f"remat {part!r} names {', '.join(unknown) or 'nothing'}: expected some of {', '.join(NAMES)} "
            "(names:qkv,mlp_in)"
        )
    return names
