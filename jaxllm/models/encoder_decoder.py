"""Sequence-to-sequence Transformers from the decoder's own layers: T5 and BART are configurations of this one.

Shape letters: B batch, S source time, T target time, D model width, V vocabulary, H heads, N buckets.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxllm.models import decoder as stacks
from jaxllm.models.block import BlockCache
from jaxllm.models.config import CrossAttentionConfig, EncoderDecoderConfig, ModelConfig, RelativeBiasConfig
from jaxllm.models.decoder import Cache, Decoder, Hidden, Remat, decoder_spec, embed, make_cache, run_segments
from jaxllm.models.layer import Context
from jaxllm.models.mixers.cross_attention import CrossContext, Memory, remember
from jaxllm.models.mixers.kv_cache import KVCache
from jaxllm.models.mixers.relative_bias import relative_bias, relative_bias_spec
from jaxllm.models.norm import normalize


@struct.dataclass
class EncoderDecoder:
    embedding: jax.Array
    encoder: Decoder
    """A stack without a table of its own."""
    decoder: Decoder
    """A stack without a table of its own, and the head."""
    encoder_bias: jax.Array | None
    decoder_bias: jax.Array | None


def encoder_decoder_spec(config: EncoderDecoderConfig) -> EncoderDecoder:
    """The declarations of every parameter. Raises ValueError while the vocabulary is still unknown."""
    encoder, decoder = decoder_spec(config.encoder), decoder_spec(config.decoder)

    def bias(of: RelativeBiasConfig | None, model: ModelConfig):
        return of and relative_bias_spec(of, model.attention.num_heads, model.init_std or 1.0)

    return EncoderDecoder(
        embedding=encoder.embedding,
        encoder=encoder.replace(embedding=None, head=None, head_bias=None),
        decoder=decoder.replace(embedding=None),
        encoder_bias=bias(config.encoder_bias, config.encoder),
        decoder_bias=bias(config.decoder_bias, config.decoder),
    )


def encode(
    params: EncoderDecoder,
    config: EncoderDecoderConfig,
    source: Int[Array, "B S"],
    *,
    mask: Bool[Array, "B S"] | None = None,
    segment_ids: Int[Array, "B S"] | None = None,
    positions: Int[Array, "B S"] | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Memory:
    """What the encoder makes of the source, for the decoder to look at.

    `mask` is False for padding; or `segment_ids` numbers the texts packed into a row from 1, 0 for padding, and
    `positions` restart in each. Raises ValueError when both are given, and when learned positions do not reach as far
    as the source.
    """
    if mask is not None:
        if segment_ids is not None:
            raise ValueError("mask and segment_ids both say what is padding: give one of them")
        segment_ids = jnp.asarray(mask).astype(jnp.int32)
    stack = params.encoder.replace(embedding=params.embedding)
    _check_length(config.encoder, source.shape[1])
    if positions is None:
        positions = jnp.arange(source.shape[1], dtype=jnp.int32)[None]
    x_BSD = embed(stack, config.encoder, source, positions, dropout_key=dropout_key)
    bias = config.encoder_bias and relative_bias(params.encoder_bias, config.encoder_bias, positions, positions)
    context = Context(positions, segment_ids, None if segment_ids is None else segment_ids > 0, bias=bias)
    x_BSD, _, _ = run_segments(
        stack.segments,
        config.encoder,
        config.encoder.segments(),
        x_BSD,
        context,
        None,
        dropout_key=dropout_key,
        remat=remat,
    )
    x_BSD = x_BSD if stack.norm is None else normalize(stack.norm, config.encoder.norm, x_BSD)
    return Memory(x_BSD, jnp.ones(source.shape, jnp.int32) if segment_ids is None else segment_ids)


def start_cache(params: EncoderDecoder, config: EncoderDecoderConfig, memory: Memory, length: int) -> Cache:
    """A cache for targets of at most `length` tokens, which holds the memory as each layer sees it."""

    def remembering(block, stacked, cache: BlockCache) -> BlockCache:
        if not isinstance(block.mixer, CrossAttentionConfig):
            return cache
        return cache.replace(mixer=jax.vmap(lambda p: remember(p, memory))(stacked.mixer))

    empty = make_cache(config.decoder, memory.x_BSM.shape[0], length)
    segments = zip(config.decoder.segments(), params.decoder.segments, empty.segments, strict=True)
    return empty.replace(
        segments=tuple(tuple(map(remembering, segment.blocks, blocks, caches)) for segment, blocks, caches in segments)
    )


def decode(
    params: EncoderDecoder,
    config: EncoderDecoderConfig,
    tokens: Int[Array, "B T"],
    *,
    memory: Memory | None = None,
    cache: Cache | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Hidden:
    """The decoder's stream for tokens of the target, each with what stands before it.

    Either with `memory`, for whole targets at once (segment n of the target sees segment n of the source); or with a
    cache of `start_cache`, to which the tokens are appended. Raises ValueError unless there is exactly one of them.
    """
    if (memory is None) == (cache is None):
        raise ValueError("decode needs the memory, or a cache that holds it: give exactly one of them")
    T = tokens.shape[1]
    _check_length(config.decoder, T)
    if positions is None:
        start = jnp.zeros((1,), jnp.int32) if cache is None else cache.length_B
        positions = start[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    stack = params.decoder.replace(embedding=params.embedding)
    bias = None
    if config.decoder_bias is not None:
        keys = positions if cache is None else jnp.arange(_cached_length(cache), dtype=jnp.int32)[None]
        bias = relative_bias(params.decoder_bias, config.decoder_bias, positions, keys)
    valid = None if segment_ids is None else segment_ids > 0
    context = CrossContext(positions, segment_ids, valid, bias=bias, memory=memory)
    x_BTD = embed(stack, config.decoder, tokens, positions, dropout_key=dropout_key)
    stream_BTD, caches, statistics = run_segments(
        stack.segments,
        config.decoder,
        config.decoder.segments(),
        x_BTD,
        context,
        cache and cache.segments,
        dropout_key=dropout_key,
        remat=remat,
    )
    x_BTD = stream_BTD if stack.norm is None else normalize(stack.norm, config.decoder.norm, stream_BTD)
    return Hidden(x_BTD, stream_BTD, cache and Cache(caches, cache.length_B + T), statistics)


def unembed(params: EncoderDecoder, config: EncoderDecoderConfig, x_BTD: jax.Array) -> jax.Array:
    """Logits [B, T, V] in float32."""
    return stacks.unembed(params.decoder.replace(embedding=params.embedding), config.decoder, x_BTD)


def forward(
    params: EncoderDecoder,
    config: EncoderDecoderConfig,
    source: Int[Array, "B S"],
    tokens: Int[Array, "B T"],
    *,
    mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T V"]:
    """Logits in float32 for the token of the target after each of `tokens`, which begin with the start token."""
    memory = encode(params, config, source, mask=mask)
    return unembed(params, config, decode(params, config, tokens, memory=memory).x_BTD)


def shift_right(config: EncoderDecoderConfig, targets_BT: jax.Array) -> jax.Array:
    """What the decoder reads to write the targets: the start token, then all of them but the last."""
    return jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)), constant_values=config.start_token)


def _check_length(config: ModelConfig, length: int) -> None:
    if config.positions == "learned" and config.context_length < length:
        raise ValueError(f"{length} tokens exceed the {config.context_length} learned positions of this model")


def _cached_length(cache: Cache) -> int:
    """Positions that the decoder's own keys have room for."""
    is_own = lambda node: isinstance(node, KVCache)  # noqa: E731
    own: list[Any] = [node for node in jax.tree.leaves(cache.segments, is_leaf=is_own) if is_own(node)]
    return own[0].length
