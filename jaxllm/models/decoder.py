"""The one decoder: embeddings, segments of blocks scanned over stacked parameters, a head.

GPT-2, Llama and the rest are configurations of it. Training, prefill and decoding differ only by the cache argument.

Shape letters: B batch, T time, D model width, V vocabulary, L layers of a segment.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxllm.models.block import Block, BlockCache, dropout, empty_block_cache
from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import Param, zeros
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import table
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.multi_token import MultiTokenModule, multi_token_spec
from jaxllm.models.mup import logit_multiplier
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.models.positions import sinusoids
from jaxllm.models.segments import Remat, run_segments, segment_spec
from jaxllm.parallel.sharding import constrain, gather_stream


@struct.dataclass
class Decoder:
    embedding: jax.Array
    position: jax.Array | None
    token_type: jax.Array | None
    embedding_norm: Norm | None
    segments: tuple[tuple[Block, ...], ...]
    norm: Norm | None
    head: jax.Array | None
    head_bias: jax.Array | None
    multi_token: tuple[MultiTokenModule, ...] | None = None


@struct.dataclass
class Cache:
    """What decoding remembers: per segment and block the mixers' states stacked over layers, and how far each row has
    come."""

    segments: tuple[tuple[BlockCache, ...], ...]
    length_B: jax.Array


@struct.dataclass
class Hidden:
    """What the layers make of a batch."""

    x_BTD: jax.Array
    """The residual stream, normalized for the head."""
    stream_BTD: jax.Array
    """The residual stream before that norm."""
    cache: Cache | None
    """The cache with these tokens appended."""
    statistics: tuple[tuple[Statistics, ...], ...]
    """What the layers report, by segment and block, stacked over layers [L, ...]."""


def decoder_spec(config: ModelConfig) -> Decoder:
    """The declarations of every parameter. Raises ValueError while the vocabulary is still unknown."""
    if not config.vocab_size:
        raise ValueError("model.vocab_size is 0 (take the tokenizer's): resolve it first, or set it")
    V, D, rows = config.vocab_size, config.d_model, config.context_length + config.embedding.position_offset
    types = config.embedding.token_types
    return Decoder(
        embedding=Param((V, D), ("vocab", "embed"), table(config)),
        position=Param((rows, D), ("position", "embed"), table(config)) if config.positions == "learned" else None,
        token_type=Param((types, D), ("position", "embed"), table(config)) if types else None,
        embedding_norm=norm_spec(config.norm, D) if config.embedding.norm else None,
        segments=tuple(segment_spec(config, segment) for segment in config.segments()),
        norm=None if config.residual.norm == "post" else norm_spec(config.norm, D),
        head=None if config.tie_embeddings else Param((V, D), ("vocab", "embed"), table(config)),
        head_bias=Param((V,), ("vocab",), zeros) if config.head.bias else None,
        multi_token=multi_token_spec(config),
    )


def make_cache(config: ModelConfig, batch: int, length: int) -> Cache:
    """An empty cache for `batch` rows of at most `length` tokens, in the compute type."""

    def one(segment: Segment) -> tuple[BlockCache, ...]:
        layers = tuple(empty_block_cache(config, block, batch, length) for block in segment.blocks)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (segment.repeats, *x.shape)), layers)

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

    Packed documents: `segment_ids` numbers the documents of a row from 1, 0 is padding (tokens see only their own),
    `positions` restart in each. Raises ValueError when learned positions do not reach as far as the sequence.
    """
    hidden = hidden_states(params, config, tokens, positions=positions, segment_ids=segment_ids)
    return unembed(params, config, hidden.x_BTD)


def hidden_states(
    params: Decoder,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    *,
    embeddings: Float[Array, "B T D"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    cache: Cache | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Hidden:
    """The residual stream after all layers, and the cache with these tokens appended.

    With a cache, row b's tokens stand at positions `length_B[b]` and on; the caller sees to it that they fit, and says
    by `valid` which of them are padding on the right; `length_B` counts those too. `embeddings` stand in for the
    tokens' rows of the embedding table, so for some of the tokens they may be something else (an image's patches).
    """
    T = tokens.shape[1]
    if config.positions == "learned" and config.context_length < T:
        raise ValueError(f"{T} tokens exceed the {config.context_length} learned positions of this model")
    if positions is None:
        start = jnp.zeros((1,), jnp.int32) if cache is None else cache.length_B
        positions = start[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    if valid is None and segment_ids is not None:
        valid = segment_ids > 0
    x_BTD = embed(params, config, tokens, positions, embeddings_BTD=embeddings, dropout_key=dropout_key)
    context = Context(positions, segment_ids, valid)
    caches = None if cache is None else cache.segments
    stream_BTD, caches, statistics = run_segments(
        params.segments, config, config.segments(), x_BTD, context, caches, dropout_key=dropout_key, remat=remat
    )
    x_BTD = stream_BTD if params.norm is None else normalize(params.norm, config.norm, stream_BTD)
    x_BTD = gather_stream(x_BTD)
    return Hidden(x_BTD, stream_BTD, None if caches is None else Cache(caches, cache.length_B + T), statistics)


def embed(
    params: Decoder,
    config: ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    *,
    embeddings_BTD: jax.Array | None = None,
    token_types_BT: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """The residual stream before the first layer, [B, T, D]."""
    x_BTD = token_rows(params, config, tokens_BT) if embeddings_BTD is None else embeddings_BTD
    if config.embedding.scale != 1:
        x_BTD = x_BTD * jnp.asarray(config.embedding.scale, x_BTD.dtype)
    if params.position is not None:
        rows_BT = positions_BT + config.embedding.position_offset
        x_BTD = x_BTD + _look_up(params.position, "position", rows_BT, config)
    if config.positions == "sinusoidal":
        x_BTD = x_BTD + sinusoids(positions_BT, config.d_model).astype(x_BTD.dtype)
    if params.token_type is not None:
        types_BT = jnp.zeros_like(tokens_BT) if token_types_BT is None else token_types_BT
        x_BTD = x_BTD + _look_up(params.token_type, "position", types_BT, config)
    if params.embedding_norm is not None:
        x_BTD = normalize(params.embedding_norm, config.norm, x_BTD)
    return constrain(dropout(x_BTD, config.dropout, dropout_key), "batch", "stream", None)


def token_rows(params: Decoder, config: ModelConfig, tokens_BT: jax.Array) -> jax.Array:
    """The tokens' rows of the embedding table, [B, T, D] in the compute type."""
    return _look_up(params.embedding, "vocab", tokens_BT, config)


def _look_up(rows: jax.Array, axis: str, ids_BT: jax.Array, config: ModelConfig) -> jax.Array:
    # The width is gathered first: a row split over devices that also split the batch would make the compiler replicate
    # both.
    return constrain(rows.astype(config.compute_dtype), axis, None)[ids_BT]


def unembed(params: Decoder, config: ModelConfig, x_BTD: jax.Array) -> jax.Array:
    """Logits [B, T, V] in float32."""
    logits = einsum("BTD,VD->BTV", x_BTD, output_head(params)).astype(jnp.float32)
    scale, softcap = config.head.scale * logit_multiplier(config), config.head.softcap
    if params.head_bias is not None:
        logits = logits + params.head_bias
    if scale != 1:
        logits = logits * scale
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    return constrain(logits, "batch", "length", "act_vocab")


def output_head(params: Decoder) -> jax.Array:
    """The [V, D] matrix whose rows score the tokens: the embedding table where they are tied."""
    return params.embedding if params.head is None else params.head
