"""Encoders of text from the decoder's own layers: BERT, RoBERTa and ModernBERT are configurations of this one.

Shape letters: B batch, T time, D model width, V vocabulary, C classes.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxllm.models.channels.mlp import ACTIVATIONS
from jaxllm.models.config import EncoderConfig, ModelConfig
from jaxllm.models.declare import Param, zeros
from jaxllm.models.decoder import Decoder, Remat, decoder_spec, embed, run_segments, unembed
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import out_of_stream
from jaxllm.models.layer import Context
from jaxllm.models.norm import Norm, norm_spec, normalize


@struct.dataclass
class Dense:
    weight: jax.Array
    bias: jax.Array | None


@struct.dataclass
class Transform:
    """The layer between the stream and the scores of tokens."""

    dense: Dense
    norm: Norm


@struct.dataclass
class Encoder:
    trunk: Decoder
    transform: Transform | None
    pooler: Dense | None
    classifier: Dense | None


def encoder_spec(config: EncoderConfig) -> Encoder:
    """The declarations of every parameter. Raises ValueError while the vocabulary is still unknown."""
    trunk = decoder_spec(config.trunk)
    if not config.first_norm:
        (first, *others), *segments = trunk.segments
        trunk = trunk.replace(segments=((first.replace(mixer_norm=None), *others), *segments))
    D = config.trunk.d_model
    transform = Transform(dense_spec(config.trunk, D, config.transform_bias), norm_spec(config.trunk.norm, D))
    classifier = None
    if config.num_classes:
        weight = Param((D, config.num_classes), ("embed", "inner"), out_of_stream(config.trunk, fan_in=D))
        classifier = Dense(weight, Param((config.num_classes,), ("inner",), zeros) if config.classifier_bias else None)
    return Encoder(
        trunk=trunk,
        transform=transform if config.has_transform else None,
        pooler=dense_spec(config.trunk, D, bias=True) if config.pooler == "tanh" else None,
        classifier=classifier,
    )


def dense_spec(model: ModelConfig, width: int, bias: bool) -> Dense:
    """The declarations of a product from the stream back to its width."""
    weight = Param((width, width), ("embed", "inner"), out_of_stream(model, fan_in=width))
    return Dense(weight, Param((width,), ("inner",), zeros) if bias else None)


def dense(p: Dense, x: jax.Array) -> jax.Array:
    """x W + b on the last axis of [B, D] or [B, T, D]."""
    leading = "BT"[: x.ndim - 1]
    y = einsum(f"{leading}D,DF->{leading}F", x, p.weight)
    return y if p.bias is None else y + p.bias.astype(y.dtype)


def encode(
    params: Encoder,
    config: EncoderConfig,
    tokens: Int[Array, "B T"],
    *,
    mask: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    token_types: Int[Array, "B T"] | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Float[Array, "B T D"]:
    """What the encoder makes of each token, in the compute type.

    `mask` is False for padding, on whichever side; or `segment_ids` numbers the texts packed into a row from 1, 0 for
    padding, and `positions` restart in each. What stands at padding is meaningless. Raises ValueError when both are
    given, and when learned positions do not reach as far as the sequence.
    """
    trunk = config.trunk
    if mask is not None:
        if segment_ids is not None:
            raise ValueError("mask and segment_ids both say what is padding: give one of them")
        segment_ids = jnp.asarray(mask).astype(jnp.int32)
    T = tokens.shape[1]
    if trunk.positions == "learned" and trunk.context_length < T:
        raise ValueError(f"{T} tokens exceed the {trunk.context_length} learned positions of this encoder")
    if positions is None:
        positions = default_positions(config, T, segment_ids)
    x_BTD = embed(params.trunk, trunk, tokens, positions, token_types_BT=token_types, dropout_key=dropout_key)
    context = Context(positions, segment_ids, None if segment_ids is None else segment_ids > 0)
    x_BTD, _, _ = run_segments(
        params.trunk.segments, trunk, trunk.segments(), x_BTD, context, None, dropout_key=dropout_key, remat=remat
    )
    return x_BTD if params.trunk.norm is None else normalize(params.trunk.norm, trunk.norm, x_BTD)


def default_positions(config: EncoderConfig, length: int, segment_ids_BT: jax.Array | None) -> jax.Array:
    """Positions of rows that hold one text each, [B or 1, T]."""
    if segment_ids_BT is None or not config.padding_positions:
        return jnp.arange(length, dtype=jnp.int32)[None]
    real_BT = segment_ids_BT > 0
    return jnp.where(real_BT, jnp.cumsum(real_BT, axis=1) - 1, -1).astype(jnp.int32)


def transform(params: Encoder, config: EncoderConfig, x: jax.Array) -> jax.Array:
    """What the trunk's output head scores for a masked token, of the shape of `x`. Raises ValueError for an encoder
    without it."""
    if params.transform is None:
        raise ValueError("this encoder can't predict masked tokens: its config has masked_head=false")
    activation = ACTIVATIONS[config.transform_activation]
    return normalize(params.transform.norm, config.trunk.norm, activation(dense(params.transform.dense, x)))


def masked_logits(params: Encoder, config: EncoderConfig, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Scores of the token that stands, or stood before it was masked, at each position; float32."""
    return unembed(params.trunk, config.trunk, transform(params, config, x_BTD))


def classify(
    params: Encoder, config: EncoderConfig, x_BTD: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None = None
) -> Float[Array, "B C"]:
    """Scores of each text's classes in float32. Raises ValueError for an encoder without a classifier."""
    if params.classifier is None:
        raise ValueError("this encoder can't classify: its config has num_classes=0")
    pooled_BD = pool(x_BTD, mask, config.pooling)
    if config.pooler == "tanh":
        pooled_BD = jnp.tanh(dense(params.pooler, pooled_BD))
    elif config.pooler == "transform":
        pooled_BD = transform(params, config, pooled_BD)
    return dense(params.classifier, pooled_BD).astype(jnp.float32)


def pool(x_BTD: jax.Array, mask: jax.Array | None, pooling: Literal["first", "mean"]) -> jax.Array:
    """One vector a text, [B, D]: the first position, or the mean of the real ones. Raises ValueError for another
    pooling."""
    if pooling == "first":
        return x_BTD[:, 0]
    if pooling != "mean":
        raise ValueError(f"unknown pooling {pooling!r}: expected first or mean")
    if mask is None:
        return x_BTD.mean(1)
    real_BT1 = jnp.asarray(mask)[..., None]
    total_BD = jnp.where(real_BT1, x_BTD.astype(jnp.float32), 0).sum(1)
    return (total_BD / jnp.maximum(real_BT1.sum(1), 1)).astype(x_BTD.dtype)


def unit_length(x: jax.Array) -> jax.Array:
    """Each vector over its length, so that products are cosines; float32."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
