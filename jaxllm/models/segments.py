"""Segments of blocks: stacked parameters, and one scan over the layers of each.

Shape letters: B batch, T time, D model width, L layers of a segment.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.block import Block, BlockCache, block_spec, run_block
from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import stack
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.remat import Remat, scan_segment


def segment_spec(config: ModelConfig, segment: Segment) -> tuple[Block, ...]:
    """The declarations of a segment's blocks, stacked over its layers."""
    return tuple(stack(block_spec(config, block), segment.repeats) for block in segment.blocks)


def run_segments(
    params: tuple[tuple[Block, ...], ...],
    config: ModelConfig,
    segments: tuple[Segment, ...],
    x_BTD: jax.Array,
    context: Context,
    caches: tuple[tuple[BlockCache, ...], ...] | None,
    *,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> tuple[jax.Array, Any, tuple[tuple[Statistics, ...], ...]]:
    """The stream after all layers, the caches (None if none came in), and the statistics, both stacked over layers."""
    new_caches, statistics = [], []
    for i, (segment, blocks) in enumerate(zip(segments, params, strict=True)):
        keys_L = layer_keys(dropout_key, i, segment)
        stacked = None if caches is None else caches[i]
        x_BTD, (stacked, reported) = run_segment(blocks, config, segment, x_BTD, context, stacked, keys_L, remat)
        new_caches.append(stacked)
        statistics.append(reported)
    return x_BTD, None if caches is None else tuple(new_caches), tuple(statistics)


def layer_keys(dropout_key: jax.Array | None, index: int, segment: Segment) -> jax.Array | None:
    """A key for each layer of the model's segment `index`, [L]; None where dropout is off."""
    return None if dropout_key is None else jax.random.split(jax.random.fold_in(dropout_key, index), segment.repeats)


def run_segment(
    blocks: tuple[Block, ...],
    config: ModelConfig,
    segment: Segment,
    x_BTD: jax.Array,
    context: Context,
    caches: tuple[BlockCache, ...] | None,
    keys_L: jax.Array | None,
    remat: Remat,
) -> tuple[jax.Array, tuple[Any, tuple[Statistics, ...]]]:
    """The stream after one segment, or after a part of it, which is a segment of fewer layers; `segment.first` may be a
    traced number. Caches and statistics are stacked over layers."""
    first_L = segment.first + len(segment.blocks) * jnp.arange(segment.repeats, dtype=jnp.int32)

    def layer(x_BTD, stacked):
        layer_blocks, layer_caches, layer_key, first = stacked
        new_caches, statistics = [], []
        for i, (block, block_config) in enumerate(zip(layer_blocks, segment.blocks, strict=True)):
            block_key = None if layer_key is None else jax.random.fold_in(layer_key, i)
            block_cache = None if layer_caches is None else layer_caches[i]
            here = context.replace(layer=first + i)
            x_BTD, new_cache, reported = run_block(block, config, block_config, x_BTD, here, block_cache, block_key)
            new_caches.append(new_cache)
            statistics.append(reported)
        return x_BTD, (None if layer_caches is None else tuple(new_caches), tuple(statistics))

    return scan_segment(layer, x_BTD, (blocks, caches, keys_L, first_L), segment, remat)
