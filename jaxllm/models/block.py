"""One block: a sequence mixer and a channel mixer, their norms, and how they join the residual stream.

Shape letters: B batch, T time, D model width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from jaxllm.models.config import Block as BlockConfig
from jaxllm.models.config import ModelConfig
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.layers import layer_of
from jaxllm.models.mup import branch_multiplier
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.models.text_layers import run_layer
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class Block:
    mixer_norm: Norm | None
    mixer: Any
    mixer_post_norm: Norm | None
    channel_norm: Norm | None
    channel: Any
    channel_post_norm: Norm | None


@struct.dataclass
class BlockCache:
    mixer: Any
    channel: Any


def block_spec(config: ModelConfig, block: BlockConfig) -> Block:
    """The declarations of one layer."""
    before = config.residual.norm in ("pre", "sandwich")
    after = config.residual.norm in ("post", "sandwich", "branch")
    norm = norm_spec(config.norm, config.d_model)
    has_mixer, has_channel = block.mixer != "none", block.channel != "none"
    return Block(
        mixer_norm=norm if before and has_mixer else None,
        mixer=layer_of(block.mixer).spec(config, block.mixer) if has_mixer else None,
        mixer_post_norm=norm if after and has_mixer else None,
        channel_norm=norm if before and has_channel and not config.residual.shared_norm else None,
        channel=layer_of(block.channel).spec(config, block.channel) if has_channel else None,
        channel_post_norm=norm if after and has_channel else None,
    )


def empty_block_cache(config: ModelConfig, block: BlockConfig, batch: int, length: int) -> BlockCache:
    """What a layer remembers before the first token."""

    def empty(mixer):
        return None if mixer == "none" else layer_of(mixer).empty_cache(config, mixer, batch, length)

    return BlockCache(empty(block.mixer), empty(block.channel))


def run_block(
    p: Block,
    config: ModelConfig,
    block: BlockConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: BlockCache | None,
    key: jax.Array | None,
) -> tuple[jax.Array, BlockCache | None, Statistics]:
    """The stream after the block, its cache and what its mixers report. A key turns dropout on."""
    keys = (None, None) if key is None else jax.random.split(key)
    caches = BlockCache(None, None) if cache is None else cache
    residual, statistics = config.residual, {}

    def branch(name, params, mixer, norm, post_norm, x_BTD, cache):
        if mixer == "none":
            return None, cache
        with jax.named_scope(name):
            normed = x_BTD if norm is None else normalize(norm, config.norm, x_BTD)
            out_BTD, cache, reported = run_layer(layer_of(mixer), params, config, mixer, normed, context, cache)
            statistics.update(reported)
            if post_norm is not None and residual.norm != "post":
                out_BTD = normalize(post_norm, config.norm, out_BTD)
        return checkpoint_name(out_BTD, f"{name}_out"), cache

    def join(x_BTD, out_BTD, post_norm, key):
        if out_BTD is None:
            return x_BTD
        x_BTD = x_BTD + _scaled_and_dropped(out_BTD, config, context, key)
        if residual.norm == "post":
            x_BTD = normalize(post_norm, config.norm, x_BTD)
        return constrain(x_BTD, "batch", "stream", None)

    x_BTD = checkpoint_name(x_BTD, "block_in")
    mixed, mixer_cache = branch("mixer", p.mixer, block.mixer, p.mixer_norm, p.mixer_post_norm, x_BTD, caches.mixer)
    after = join(x_BTD, mixed, p.mixer_post_norm, keys[0])
    channel_norm = p.mixer_norm if residual.shared_norm else p.channel_norm
    channel_input = x_BTD if residual.parallel else after
    channeled, channel_cache = branch(
        "channel", p.channel, block.channel, channel_norm, p.channel_post_norm, channel_input, caches.channel
    )
    x_BTD = join(after, channeled, p.channel_post_norm, keys[1])
    return x_BTD, None if cache is None else BlockCache(mixer_cache, channel_cache), statistics


def _scaled_and_dropped(out_BTD: jax.Array, config: ModelConfig, context: Context, key: jax.Array | None) -> jax.Array:
    multiplier = config.residual.multiplier * branch_multiplier(config)
    if multiplier != 1:
        out_BTD = out_BTD * jnp.asarray(multiplier, out_BTD.dtype)
    if key is None:
        return out_BTD
    dropout_key, depth_key = jax.random.split(key)
    if config.residual.stochastic_depth:
        # Huang et al. 2016: the deeper a layer, the likelier it is skipped.
        rate = config.residual.stochastic_depth * context.layer / max(config.num_layers - 1, 1)
        kept = jax.random.bernoulli(depth_key, 1 - rate, (out_BTD.shape[0], 1, 1))
        out_BTD = jnp.where(kept, out_BTD / (1 - rate), 0).astype(out_BTD.dtype)
    return dropout(out_BTD, config.dropout, dropout_key)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero units with chance `rate` and scale the rest up; no key, as in evaluation and decoding, means nothing is
    dropped."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
