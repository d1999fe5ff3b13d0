"""Language models that see: an image encoder, a projector and a decoder (LLaVA, Liu et al. 2023).

Shape letters: B batch, T time, N images, P patches, D width of the decoder, V vocabulary.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxllm.models.channels.mlp import ACTIVATIONS
from jaxllm.models.config import VisionLanguageConfig
from jaxllm.models.declare import Param, normal, zeros
from jaxllm.models.decoder import Cache, Decoder, Hidden, Remat, decoder_spec, hidden_states, token_rows, unembed
from jaxllm.models.encoder import Dense, dense
from jaxllm.models.vision import Vision, look, vision_spec


@struct.dataclass
class Projector:
    """From the image encoder's width to the decoder's: two products with a nonlinearity between."""

    first: Dense
    second: Dense


@struct.dataclass
class VisionLanguage:
    vision: Vision
    projector: Projector
    text: Decoder


def vision_language_spec(config: VisionLanguageConfig) -> VisionLanguage:
    """The declarations of every parameter."""
    inward, width = config.vision.trunk.d_model, config.text.d_model

    def layer(fan_in: int, axes: tuple[str, str]) -> Dense:
        bias = Param((width,), axes[1:] if axes[1] == "inner" else ("residual",), zeros)
        weight = Param((fan_in, width), axes, normal(1 / math.sqrt(fan_in)))
        return Dense(weight, bias if config.projector_bias else None)

    return VisionLanguage(
        vision=vision_spec(config.vision),
        projector=Projector(layer(inward, ("embed", "inner")), layer(width, ("inner", "embed"))),
        text=decoder_spec(config.text),
    )


def image_features(
    params: VisionLanguage,
    config: VisionLanguageConfig,
    pixels: Float[Array, "N H W C"],
    *,
    remat: Remat = "none",
) -> Float[Array, "N P D"]:
    """What stands in for the placeholders of each image, in the compute type of the decoder."""
    x_NPM = look(params.vision, config.vision, pixels, layers=config.layers_used, remat=remat)
    if config.vision.class_token and not config.keep_class:
        x_NPM = x_NPM[:, 1:]
    hidden_NPD = ACTIVATIONS[config.projector_activation](dense(params.projector.first, x_NPM))
    return dense(params.projector.second, hidden_NPD).astype(config.text.compute_dtype)


def embed_with_images(
    params: VisionLanguage,
    config: VisionLanguageConfig,
    tokens: Int[Array, "B T"],
    features: Float[Array, "N P D"],
) -> Float[Array, "B T D"]:
    """The tokens' rows of the embedding table, with the images' features in the place of the placeholders.

    The placeholders of the batch, row after row, take the patches of the images in their order. Raises ValueError when
    there are not as many of them as patches; under `jit`, where tokens are not known, nothing is checked.
    """
    if not isinstance(tokens, jax.core.Tracer):
        check_placeholders(config, tokens, features.shape[0])
    slot_BT = jnp.asarray(tokens) == config.image_token
    patches = features.shape[0] * features.shape[1]
    rows_BTD = token_rows(params.text, config.text, tokens)
    # The stream is the rows times the embedding's scale; features are not to be scaled.
    flat = features.reshape(patches, -1).astype(rows_BTD.dtype) / config.text.embedding.scale
    index_BT = jnp.cumsum(slot_BT.reshape(-1)).reshape(slot_BT.shape) - 1
    return jnp.where(slot_BT[..., None], flat[jnp.clip(index_BT, 0, patches - 1)], rows_BTD)


def check_placeholders(config: VisionLanguageConfig, tokens: Int[Array, "B T"], images: int) -> None:
    """Raises ValueError unless the text has as many placeholders as the images need."""
    count, wanted = int(np.sum(np.asarray(tokens) == config.image_token)), images * config.tokens_per_image
    if count != wanted:
        raise ValueError(
            f"the text has {count} placeholders (token {config.image_token}), {images} images need {wanted}: write "
            f"{config.tokens_per_image} for each image"
        )


def read(
    params: VisionLanguage,
    config: VisionLanguageConfig,
    tokens: Int[Array, "B T"],
    pixels: Float[Array, "N H W C"] | None = None,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    cache: Cache | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Hidden:
    """The decoder's stream over text and images, or over text alone (pixels None), with or without a cache.

    A prompt with images goes through here once, with a cache; what follows is text, and may go through
    `decoder.hidden_states` with `params.text` and that cache like any other model's.
    """
    embeddings = None
    if pixels is not None:
        features = image_features(params, config, pixels, remat=remat)
        embeddings = embed_with_images(params, config, tokens, features)
    return hidden_states(
        params.text,
        config.text,
        tokens,
        embeddings=embeddings,
        segment_ids=segment_ids,
        positions=positions,
        valid=valid,
        cache=cache,
        dropout_key=dropout_key,
        remat=remat,
    )


def forward(
    params: VisionLanguage,
    config: VisionLanguageConfig,
    tokens: Int[Array, "B T"],
    pixels: Float[Array, "N H W C"] | None = None,
) -> Float[Array, "B T V"]:
    """Logits in float32 for the token after each position."""
    return unembed(params.text, config.text, read(params, config, tokens, pixels).x_BTD)
