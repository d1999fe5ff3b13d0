"""Image encoders from the decoder's own layers: ViT, CLIP's and SigLIP's are configurations of this one.

Shape letters: N images, P patches and a class token where there is one, D model width, C channels, F patch elements.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxllm.models.block import Block
from jaxllm.models.channels.mlp import MLP, mlp, mlp_spec
from jaxllm.models.config import CrossAttentionConfig, ModelConfig, VisionConfig
from jaxllm.models.declare import Param, normal, zeros
from jaxllm.models.decoder import Remat, run_segments, segment_spec
from jaxllm.models.einsum import einsum
from jaxllm.models.encoder import Dense, dense, dense_spec
from jaxllm.models.layer import Context
from jaxllm.models.mixers.cross_attention import (
    CrossAttention,
    CrossContext,
    Memory,
    cross_attention,
    cross_attention_spec,
)
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class AttentionPooler:
    """A learned query looks at all positions; an MLP follows (SigLIP)."""

    probe: jax.Array
    attention: CrossAttention
    norm: Norm
    mlp: MLP


@struct.dataclass
class Vision:
    patch: Dense
    class_token: jax.Array | None
    position: jax.Array
    first_norm: Norm | None
    segments: tuple[tuple[Block, ...], ...]
    norm: Norm
    pooler: Dense | AttentionPooler | None


def vision_spec(config: VisionConfig) -> Vision:
    """The declarations of every parameter."""
    trunk, D = config.trunk, config.trunk.d_model
    F = config.patch_size**2 * config.channels
    weight = Param((F, D), ("inner", "embed"), normal(1 / math.sqrt(F)))
    std = trunk.init_std or 1 / math.sqrt(D)
    norm = norm_spec(trunk.norm, D)
    pooler = None
    if config.pooler == "tanh":
        pooler = dense_spec(trunk, D, bias=True)
    elif config.pooler == "attention":
        attention = cross_attention_spec(trunk, pooling_attention(trunk))
        pooler = AttentionPooler(Param((D,), ("residual",), normal(std)), attention, norm, mlp_spec(trunk, trunk.mlp))
    return Vision(
        patch=Dense(weight, Param((D,), ("residual",), zeros) if config.patch_bias else None),
        class_token=Param((D,), ("residual",), normal(std)) if config.class_token else None,
        position=Param((config.num_positions, D), ("position", "embed"), normal(std)),
        first_norm=norm if config.first_norm else None,
        segments=tuple(segment_spec(trunk, segment) for segment in trunk.segments()),
        norm=norm,
        pooler=pooler,
    )


def pooling_attention(trunk: ModelConfig) -> CrossAttentionConfig:
    """The attention of an `AttentionPooler`: heads and biases as in the blocks."""
    of = trunk.attention
    return CrossAttentionConfig(num_heads=of.num_heads, qkv_bias=of.qkv_bias, out_bias=of.out_bias)


def cut_patches(pixels_NHWC: jax.Array, size: int) -> jax.Array:
    """Patches row by row, each flattened as (row, column, channel): [N, patches, size * size * C]."""
    N, height, width, C = pixels_NHWC.shape
    rows, columns = height // size, width // size
    kept = pixels_NHWC[:, : rows * size, : columns * size]
    cut = jnp.swapaxes(kept.reshape(N, rows, size, columns, size, C), 2, 3)
    return cut.reshape(N, rows * columns, size * size * C)


def look(
    params: Vision,
    config: VisionConfig,
    pixels: Float[Array, "N H W C"],
    *,
    layers: int | None = None,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Float[Array, "N P D"]:
    """The stream after so many blocks (None: all), not normalized, for each patch; the class token comes first.

    Pixels are normalized as the model was trained (`jaxllm.data.images`). Raises ValueError for images of another size
    than the model's, and for more layers than there are.
    """
    expected = (config.image_size, config.image_size, config.channels)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise ValueError(f"images must be [N, height, width, channels] = [N, {expected}], got {list(pixels.shape)}")
    trunk = config.trunk
    patches_NPF = cut_patches(jnp.asarray(pixels, trunk.compute_dtype), config.patch_size)
    x_NPD = einsum("NPF,FD->NPD", patches_NPF, params.patch.weight)
    if params.patch.bias is not None:
        x_NPD = x_NPD + params.patch.bias.astype(x_NPD.dtype)
    if params.class_token is not None:
        first = jnp.broadcast_to(params.class_token.astype(x_NPD.dtype), (x_NPD.shape[0], 1, trunk.d_model))
        x_NPD = jnp.concatenate([first, x_NPD], axis=1)
    x_NPD = x_NPD + params.position.astype(x_NPD.dtype)
    if params.first_norm is not None:
        x_NPD = normalize(params.first_norm, trunk.norm, x_NPD)
    x_NPD = constrain(x_NPD, "batch", "length", None)
    segments, blocks = _first_layers(config, params.segments, layers)
    context = Context(jnp.arange(x_NPD.shape[1], dtype=jnp.int32)[None], None, None)
    return run_segments(blocks, trunk, segments, x_NPD, context, None, dropout_key=dropout_key, remat=remat)[0]


def encode_images(params: Vision, config: VisionConfig, pixels: Float[Array, "N H W C"]) -> Float[Array, "N P D"]:
    """What the whole encoder makes of each patch: normalized, unless the last norm is for the pooled vector only."""
    x_NPD = look(params, config, pixels)
    return normalize(params.norm, config.trunk.norm, x_NPD) if config.final_norm == "all" else x_NPD


def pool_images(params: Vision, config: VisionConfig, x_NPD: Float[Array, "N P D"]) -> Float[Array, "N D"]:
    """One vector an image, from what `encode_images` gave. Raises ValueError for an encoder without a pooler."""
    trunk = config.trunk
    match config.pooler:
        case "class":
            first_ND = x_NPD[:, 0]
            return normalize(params.norm, trunk.norm, first_ND) if config.final_norm == "pooled" else first_ND
        case "tanh":
            return jnp.tanh(dense(params.pooler, x_NPD[:, 0]))
        case "attention":
            return _attend_and_pool(params.pooler, trunk, x_NPD)
        case _:
            raise ValueError("this image encoder has no pooler: its config has pooler=none")


def _attend_and_pool(p: AttentionPooler, trunk: ModelConfig, x_NPD: jax.Array) -> jax.Array:
    N, P, D = x_NPD.shape
    probe_N1D = jnp.broadcast_to(p.probe.astype(x_NPD.dtype), (N, 1, D))
    everything = Memory(x_NPD, jnp.ones((N, P), jnp.int32))
    context = CrossContext(jnp.zeros((1, 1), jnp.int32), None, None, memory=everything)
    seen_N1D, _, _ = cross_attention(p.attention, trunk, pooling_attention(trunk), probe_N1D, context, None)
    branch_N1D, _, _ = mlp(p.mlp, trunk, trunk.mlp, normalize(p.norm, trunk.norm, seen_N1D), context, None)
    return (seen_N1D + branch_N1D)[:, 0]


def _first_layers(config: VisionConfig, blocks, layers: int | None):
    """The segments and parameters of the first `layers` blocks; a segment that is cut must be cut between patterns."""
    segments = config.trunk.segments()
    if layers is None:
        return segments, blocks
    if not 0 <= layers <= config.trunk.num_layers:
        raise ValueError(f"layers={layers}, but the image encoder has {config.trunk.num_layers}")
    kept_segments, kept_blocks = [], []
    for segment, stacked in zip(segments, blocks, strict=True):
        repeats, rest = divmod(min(layers - segment.first, segment.repeats * len(segment.blocks)), len(segment.blocks))
        if rest > 0:
            raise ValueError(f"layers={layers} would cut a pattern of {len(segment.blocks)} blocks apart")
        if repeats > 0:
            kept_segments.append(segment.__class__(segment.blocks, repeats, segment.first))
            kept_blocks.append(jax.tree.map(lambda x, repeats=repeats: x[:repeats], stacked))
    return tuple(kept_segments), tuple(kept_blocks)
