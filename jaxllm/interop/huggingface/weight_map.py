"""Which tensor of theirs holds which parameter of ours: rules that are read in both directions.

A family lists rules for what stands once, for a block's norms, and for each class of mixer; `pieces_of` applies them to
the declarations of a model. Our parameters are stacked over layers, theirs stand one by one: `{i}` in a name is the
number of the layer. Any other name in braces is an axis of ours that theirs spreads over tensors:
`tensor("up", "experts.{e}.w3.weight", "F D -> e D F")`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxllm.interop.huggingface.rearrangement import Part, Rearrangement, arrange, parse
from jaxllm.models.config import Segment
from jaxllm.models.declare import Param, Spec


@dataclass(frozen=True)
class Tensor:
    """One rule: our parameter, or a part of it, is this tensor of theirs, or a part of that."""

    ours: str
    """Path from the model, the block or the mixer, as the rule stands: "embedding", "mixer_norm.scale", "query"."""
    theirs: str
    """Name; of a block's or mixer's rule it is what follows the map's prefix."""
    pattern: str = ""
    """See `rearrangement`; empty means the same shape."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """What is ours of a longer axis of theirs."""


def tensor(ours: str, theirs: str, pattern: str = "", **parts: Part) -> Tensor:
    return Tensor(ours, theirs, pattern, parts)


@dataclass(frozen=True)
class Stack:
    """The rules of a stack of layers."""

    segments: Sequence[Segment]
    """Its layers, as the config has them."""
    prefix: str
    """What the names of a layer begin with, as "model.layers.{i}."."""
    block: Sequence[Tensor] = ()
    """Norms of a block."""
    mixers: Mapping[type, Sequence[Tensor]] = field(default_factory=dict)
    """By the class of a sequence mixer's config."""
    channels: Mapping[type, Sequence[Tensor]] = field(default_factory=dict)
    """By the class of a channel mixer's config."""
    norms: Mapping[type, Sequence[Tensor]] = field(default_factory=dict)
    """Rules of a block's norms that differ from `block`, by the class of its sequence mixer's config."""
    blocks_per_layer: int = 1
    """Blocks of ours that one layer of theirs is: two in decoders that look at an encoder."""


@dataclass(frozen=True)
class WeightMap:
    """The rules of a family for one model. Rules for parameters that the model does not have are idle."""

    model: Sequence[Tensor]
    """What stands once: embedding, last norm, head."""
    stacks: Mapping[str, Stack]
    """By the path of the stacked blocks in our parameters: "segments" of a decoder; "multi_token.0.blocks" of a module
    that has one segment."""
    base: str = ""
    """What all names begin with but for the head's; a directory may leave it out ("transformer." of GPT-2)."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Copies that a directory may hold of another tensor, as the head of a model that ties it: name -> the other."""
    ignored: Sequence[str] = ()
    """Regular expressions of names that are no parameters: masks, frequencies."""


@dataclass(frozen=True)
class Piece:
    """A part of a parameter, and where it is in their tensors."""

    theirs: str
    rearrangement: Rearrangement
    select: tuple[int | slice, ...]
    """What part of the (stacked) parameter it is: whole axes or single places."""


@dataclass(frozen=True)
class Leaf:
    """A parameter: its dotted path, its declaration, its pieces."""

    path: str
    param: Param
    pieces: tuple[Piece, ...]


def leaves_of(spec: Spec, weight_map: WeightMap) -> list[Leaf]:
    """Every parameter that is declared, in the order of the tree's leaves."""
    leaves = []
    for keys, param in jax.tree_util.tree_flatten_with_path(spec)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        stack = next((name for name in weight_map.stacks if path.startswith(f"{name}.")), None)
        if stack is None:
            pieces = list(_pieces([rule for rule in weight_map.model if rule.ours == path], param.shape, 0, ()))
        else:
            inside = path.removeprefix(f"{stack}.")
            # Blocks that belong to no tuple of segments are the only segment of their stack.
            inside = f"0.{inside}" if stack.endswith(".blocks") else inside
            pieces = list(_stacked_pieces(weight_map.stacks[stack], inside, param.shape))
        assert sum(math.prod(piece.rearrangement.ours_shape) for piece in pieces) == param.size, (
            f"the weight map does not cover {path} {param.shape}"
        )
        leaves.append(Leaf(path, param, tuple(pieces)))
    return leaves


def _stacked_pieces(stack: Stack, path: str, shape: tuple[int, ...]) -> Iterator[Piece]:
    which, place, name = path.split(".", 2)
    segment = stack.segments[int(which)]
    rules = _layer_rules(stack, segment.blocks[int(place)], name)
    for layer in range(segment.repeats):
        number = segment.first + layer * len(segment.blocks) + int(place)
        yield from _pieces(rules, shape[1:], number // stack.blocks_per_layer, (layer,))


def _layer_rules(stack: Stack, block: Any, name: str) -> list[Tensor]:
    part, _, rest = name.partition(".")
    match part:
        case "mixer":
            rules, name = stack.mixers.get(type(block.mixer), ()), rest
        case "channel":
            rules, name = stack.channels.get(type(block.channel), ()), rest
        case _:
            rules = stack.norms.get(type(block.mixer), stack.block)
    return [
        Tensor(rule.ours, stack.prefix + rule.theirs, rule.pattern, rule.parts) for rule in rules if rule.ours == name
    ]


def _pieces(rules: Sequence[Tensor], shape: tuple[int, ...], i: int, select: tuple[int, ...]) -> Iterator[Piece]:
    for rule in rules:
        spread = [name for name in re.findall(r"{(\w+)}", rule.theirs) if name != "i"]
        pattern, axes = rule.pattern, []
        if spread:
            theirs, _, ours = pattern.partition("->")
            names = [" ".join(dimension) for dimension in parse(pattern).ours]
            axes = [names.index(name) for name in spread]
            kept = [part for part in re.findall(r"\([^()]*\)|\S+", ours) if part not in spread]
            pattern = f"{theirs}-> {' '.join(kept)}"
        rest = tuple(size for axis, size in enumerate(shape) if axis not in axes)
        rearrangement = arrange(pattern, rest, rule.parts)
        for places in itertools.product(*(range(shape[axis]) for axis in axes)):
            chosen: list[int | slice] = [slice(None)] * len(shape)
            for axis, place in zip(axes, places, strict=True):
                chosen[axis] = place
            name = rule.theirs.format(i=i, **dict(zip(spread, places, strict=True)))
            yield Piece(name, rearrangement, (*select, *chosen))
