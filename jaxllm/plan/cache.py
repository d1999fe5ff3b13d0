"""What decoding remembers, by kind of mixer: asked of each mixer's own empty cache, without allocating it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import jax

from jaxllm.models.block import empty_block_cache
from jaxllm.models.config import Block, ModelConfig, SparseAttentionConfig
from jaxllm.plan.flops import View, sparse_reads


@dataclass(frozen=True)
class CachePart:
    """The caches of all layers of one kind."""

    name: str
    """Kind of mixer, with its window where it has one."""
    layers: int
    bytes: int
    per_token: float
    """Bytes that each further token of a row adds, beyond the planned length."""
    read: float
    """Bytes that are read to decode one further token of every row."""
    contents: dict[str, int]
    """Bytes by what is held: keys, values, states."""


def cache_parts(config: ModelConfig, context: int, batch: int = 1) -> tuple[CachePart, ...]:
    """Caches for `batch` rows of `context` tokens, by kind of mixer; only those that remember something."""
    found: dict[str, list[CachePart]] = defaultdict(list)
    for segment in config.segments():
        for block in segment.blocks:
            for layer in (block.mixer, block.channel):
                part = _part(config, layer, segment.repeats, context, batch)
                if part.bytes:
                    found[part.name].append(part)
    return tuple(_sum(parts) for parts in found.values())


def cache_bytes(config: ModelConfig, context: int, batch: int = 1) -> int:
    return sum(part.bytes for part in cache_parts(config, context, batch))


def _part(config: ModelConfig, layer: object, layers: int, context: int, batch: int) -> CachePart:
    contents = _contents(config, layer, context, batch)
    grown = sum(_contents(config, layer, 2 * context, batch).values())
    size, name = sum(contents.values()), getattr(layer, "kind", "none")
    for dial in ("window", "chunk"):
        if getattr(layer, dial, 0) and not isinstance(layer, SparseAttentionConfig) and "attention" in name:
            name += f", {dial} {getattr(layer, dial)}"
    return CachePart(
        name=name,
        layers=layers,
        bytes=layers * size,
        per_token=layers * (grown - size) / (context * batch),
        read=layers * _read(layer, contents, context),
        contents={what: layers * n for what, n in contents.items()},
    )


def _contents(config: ModelConfig, layer: object, context: int, batch: int) -> dict[str, int]:
    """Bytes of one layer's cache by the name of its parts."""
    cache = jax.eval_shape(lambda: empty_block_cache(config, Block(layer, "none"), batch, context).mixer)
    sizes: dict[str, int] = defaultdict(int)
    for path, leaf in jax.tree_util.tree_leaves_with_path(cache):
        # Names end in the letters of their shape: key_BSGK.
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        sizes[".".join(name.rsplit("_B", 1)[0] for name in names)] += math.prod(leaf.shape) * leaf.dtype.itemsize
    return dict(sizes)


def _read(layer: object, contents: dict[str, int], context: int) -> float:
    """All of it, but for sparse attention, which reads of its keys and values only the selected blocks."""
    if not isinstance(layer, SparseAttentionConfig):
        return sum(contents.values())
    share = sparse_reads(layer, View(context, decoding=True))["selected"] / context
    return sum(n * (share if what.startswith("selected") else 1) for what, n in contents.items())


def _sum(parts: list[CachePart]) -> CachePart:
    contents: dict[str, int] = defaultdict(int)
    for part in parts:
        for what, n in part.contents.items():
            contents[what] += n
    return CachePart(
        name=parts[0].name,
        layers=sum(part.layers for part in parts),
        bytes=sum(part.bytes for part in parts),
        per_token=sum(part.per_token for part in parts),
        read=sum(part.read for part in parts),
        contents=dict(contents),
    )
