"""Google: Gemma (2024), Gemma 2 (2024) and the text models of Gemma 3 (2025)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    EmbeddingConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    ResidualConfig,
    RopeConfig,
)


def gemma(
    num_layers: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    d_ff: int,
    *,
    head_dim: int = 256,
    vocab_size: int = 256_000,
    context_length: int = 8192,
) -> ModelConfig:
    """GeGLU, norms whose scale is stored less 1, embeddings multiplied by sqrt(d_model), tied head."""
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=d_model,
        num_layers=num_layers,
        attention=AttentionConfig(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim),
        mlp=MLPConfig(d_ff=d_ff, activation="gelu_tanh", gated=True),
        norm=NormConfig(unit_offset=True, epsilon=1e-6),
        embedding=EmbeddingConfig(scale=math.sqrt(d_model)),
    )


def gemma2(*sizes: int, head_dim: int = 256, scale: float = 0.0) -> ModelConfig:
    """Also norms after each branch, windows in every second layer, and soft-capped scores and logits."""
    model = gemma(*sizes, head_dim=head_dim)
    attention = replace(model.attention, softcap=50.0, scale=scale)
    return replace(
        model,
        attention=attention,
        pattern=(Block(replace(attention, window=4096)), Block(attention)),
        residual=ResidualConfig(norm="sandwich"),
        head=HeadConfig(softcap=30.0),
    )


def gemma3(*sizes: int, window: int, context_length: int, stretch: float = 1.0) -> ModelConfig:
    """Five layers with windows to one without, rotary bases of their own, normalized queries and keys, no caps."""
    model = gemma(*sizes, vocab_size=262_144, context_length=context_length)
    scaling = "linear" if stretch > 1 else "none"
    attention = replace(model.attention, qk_norm="shared", rope=RopeConfig(theta=1e6, scaling=scaling, factor=stretch))
    local = Block(replace(attention, window=window, rope=RopeConfig(theta=1e4)))
    pattern = (*[local] * 5, Block(attention))
    return replace(model, attention=attention, pattern=pattern, residual=ResidualConfig(norm="sandwich"))


PRESETS = {
    "gemma-2b": partial(gemma, 18, 2048, 8, 1, 16_384),
    "gemma-7b": partial(gemma, 28, 3072, 16, 16, 24_576),
    "gemma2-2b": partial(gemma2, 26, 2304, 8, 4, 9216),
    "gemma2-9b": partial(gemma2, 42, 3584, 16, 8, 14_336),
    # Scores are divided by sqrt(d_model / num_heads) here, not by the root of the head's width.
    "gemma2-27b": partial(gemma2, 46, 4608, 32, 16, 36_864, head_dim=128, scale=1 / 12),
    "gemma3-270m": partial(gemma3, 18, 640, 4, 1, 2048, window=512, context_length=32_768),
    "gemma3-1b": partial(gemma3, 26, 1152, 4, 1, 6912, window=512, context_length=32_768),
    "gemma3-4b": partial(gemma3, 34, 2560, 8, 4, 10_240, window=1024, context_length=131_072, stretch=8.0),
}
