"""The one decoder: embeddings, segments of blocks scanned over stacked parameters, a head.

GPT-2, Llama and the rest are configurations of it. Training, prefill and decoding differ only by the cache argument.

Shape letters: B batch, T time, D model width, V vocabulary, L layers of a segment.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxllm.models.attention import Attention, KVCache, attention, attention_spec, empty_cache
from jaxllm.models.config import Block as BlockConfig
from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import Param, stack
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import out_of_stream, table
from jaxllm.models.mlp import MLP, mlp, mlp_spec
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain

Remat = Literal["none", "dots", "full"]


@struct.dataclass
class Block:
    mixer_norm: Norm
    mixer: Attention
    channel_norm: Norm | None
    channel: MLP | None


@struct.dataclass
class Decoder:
    embedding: jax.Array
    position: jax.Array | None
    segments: tuple[tuple[Block, ...], ...]
    norm: Norm
    head: jax.Array | None


@struct.dataclass
class Cache:
    """What decoding remembers: per segment and block the mixer's state stacked over layers, and how far each row has
    come."""

    segments: tuple[tuple[KVCache, ...], ...]
    length_B: jax.Array


def decoder_spec(config: ModelConfig) -> Decoder:
    """The declarations of every parameter. Raises ValueError while the vocabulary is still unknown."""
    if not config.vocab_size:
        raise ValueError("model.vocab_size is 0 (take the tokenizer's): resolve it first, or set it")
    V, D = config.vocab_size, config.d_model
    return Decoder(
        embedding=Param((V, D), ("vocab", "embed"), table(config)),
        position=Param((config.context_length, D), ("position", "embed"), table(config))
        if config.positions == "learned"
        else None,
        segments=tuple(
            tuple(stack(_block_spec(config, block), segment.repeats) for block in segment.blocks)
            for segment in config.segments()
        ),
        norm=norm_spec(config.norm, D),
        head=None if config.tie_embeddings else Param((V, D), ("vocab", "embed"), out_of_stream(config, fan_in=D)),
    )


def _block_spec(config: ModelConfig, block: BlockConfig) -> Block:
    has_channel = block.channel != "none"
    return Block(
        mixer_norm=norm_spec(config.norm, config.d_model),
        mixer=attention_spec(config),
        channel_norm=norm_spec(config.norm, config.d_model) if has_channel else None,
        channel=mlp_spec(config) if has_channel else None,
    )


def make_cache(config: ModelConfig, batch: int, length: int) -> Cache:
    """An empty cache for `batch` rows of at most `length` tokens, in the compute type."""

    def one(segment: Segment) -> tuple[KVCache, ...]:
        layer = empty_cache(config, batch, length)
        stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (segment.repeats, *x.shape)), layer)
        return tuple(stacked for _ in segment.blocks)

    return Cache(tuple(one(segment) for segment in config.segments()), jnp.zeros((batch,), jnp.int32))


def forward(
    params: Decoder,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
    """Logits in float32 for the token after each position.

    Packed documents: `segment_ids` numbers the documents of a row (tokens see only their own), `positions` restart in
    each. Raises ValueError when learned positions do not reach as far as the sequence.
    """
    x_BTD, _ = hidden_states(params, config, tokens, positions=positions, segment_ids=segment_ids)
    return unembed(params, x_BTD)


def hidden_states(
    params: Decoder,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    cache: Cache | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """The normalized residual stream before the head, and the cache with these tokens appended.

    With a cache, row b's tokens stand at positions `length_B[b]` and on; the caller sees to it that they fit.
    """
    T = tokens.shape[1]
    if config.positions == "learned" and config.context_length < T:
        raise ValueError(f"{T} tokens exceed the {config.context_length} learned positions of this model")
    if positions is None:
        start = jnp.zeros((1,), jnp.int32) if cache is None else cache.length_B
        positions = start[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    x_BTD = _look_up(params.embedding, "vocab", tokens, config)
    if params.position is not None:
        x_BTD = x_BTD + _look_up(params.position, "position", positions, config)
    x_BTD = constrain(_dropout(x_BTD, config.dropout, dropout_key), "batch", "length", None)

    caches = []
    for i, (segment, blocks) in enumerate(zip(config.segments(), params.segments, strict=True)):
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
        stacked = None if cache is None else cache.segments[i]
        x_BTD, stacked = _run_segment(blocks, config, segment, x_BTD, positions, segment_ids, stacked, key, remat)
        caches.append(stacked)
    x_BTD = normalize(params.norm, config.norm, x_BTD)
    return x_BTD, None if cache is None else Cache(tuple(caches), cache.length_B + T)


def _look_up(rows: jax.Array, axis: str, ids_BT: jax.Array, config: ModelConfig) -> jax.Array:
    # The width is gathered first: a row split over devices that also split the batch would make the compiler replicate
    # both.
    return constrain(rows.astype(config.compute_dtype), axis, None)[ids_BT]


def unembed(params: Decoder, x_BTD: jax.Array) -> jax.Array:
    """Logits [B, T, V] in float32."""
    logits = einsum("BTD,VD->BTV", x_BTD, output_head(params)).astype(jnp.float32)
    return constrain(logits, "batch", "length", "act_vocab")


def output_head(params: Decoder) -> jax.Array:
    """The [V, D] matrix whose rows score the tokens: the embedding table where they are tied."""
    return params.embedding if params.head is None else params.head


def _run_segment(blocks, config, segment: Segment, x_BTD, positions_BT, segment_ids_BT, caches, key, remat: Remat):
    keys_L = None if key is None else jax.random.split(key, segment.repeats)

    def layer(x_BTD, stacked):
        layer_blocks, layer_caches, layer_key = stacked
        new_caches = []
        for i, block in enumerate(layer_blocks):
            block_key = None if layer_key is None else jax.random.fold_in(layer_key, i)
            block_cache = None if layer_caches is None else layer_caches[i]
            x_BTD, new_cache = _run_block(block, config, x_BTD, positions_BT, segment_ids_BT, block_cache, block_key)
            new_caches.append(new_cache)
        return x_BTD, None if layer_caches is None else tuple(new_caches)

    return jax.lax.scan(_rematerialized(layer, remat), x_BTD, (blocks, caches, keys_L))


def _run_block(p: Block, config: ModelConfig, x_BTD, positions_BT, segment_ids_BT, cache, key):
    keys = (None, None) if key is None else jax.random.split(key)
    with jax.named_scope("attention"):
        branch, cache = attention(
            p.mixer,
            config,
            normalize(p.mixer_norm, config.norm, x_BTD),
            positions_BT=positions_BT,
            segment_ids_BT=segment_ids_BT,
            cache=cache,
        )
        x_BTD = constrain(x_BTD + _dropout(branch, config.dropout, keys[0]), "batch", "length", None)
    if p.channel is not None:
        with jax.named_scope("mlp"):
            branch = mlp(p.channel, config.mlp, normalize(p.channel_norm, config.norm, x_BTD))
            x_BTD = constrain(x_BTD + _dropout(branch, config.dropout, keys[1]), "batch", "length", None)
    return x_BTD, cache


def _rematerialized(layer, remat: Remat):
    """What the backward pass keeps of a layer: everything, the results of weight products, or only its input."""
    match remat:
        case "none":
            return layer
        case "dots":
            return jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        case "full":
            return jax.checkpoint(layer)
        case _:
            raise ValueError(f"unknown remat policy {remat!r}: expected none, dots or full")


def _dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero units with chance `rate` and scale the rest up; no key, as in evaluation and decoding, means nothing is
    dropped."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)
