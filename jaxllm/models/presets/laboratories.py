"""Transformers of smaller makers, most of them Llama with a dial or two turned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from jaxllm.models.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    MLPConfig,
    ModelConfig,
    NormConfig,
    ResidualConfig,
    RopeConfig,
)
from jaxllm.models.presets.meta import llama

LAYER_NORM = NormConfig(kind="layernorm", bias=True)


def olmo2(*sizes: int) -> ModelConfig:
    """Allen AI (2024): norms on the branches' outputs, queries and keys normalized over all heads at once."""
    rope = RopeConfig(theta=500_000.0)
    model = llama(*sizes, vocab_size=100_352, context_length=4096, rope=rope, epsilon=1e-6)
    attention = replace(model.attention, qk_norm="whole")
    return replace(model, attention=attention, residual=ResidualConfig(norm="branch"))


def granite(*sizes: int) -> ModelConfig:
    """IBM (2024): multipliers on embeddings, branches, scores and logits."""
    rope = RopeConfig(theta=1e7)
    model = llama(*sizes, vocab_size=49_159, context_length=131_072, rope=rope, tie=True)
    return replace(
        model,
        attention=replace(model.attention, scale=1 / 128),
        residual=ResidualConfig(multiplier=0.22),
        embedding=EmbeddingConfig(scale=12.0),
        head=HeadConfig(scale=1 / 16),
    )


def stablelm(*sizes: int) -> ModelConfig:
    """Stability AI (2023): LayerNorm, a quarter of each head turned."""
    model = llama(*sizes, vocab_size=50_304, context_length=4096, rope=RopeConfig(fraction=0.25))
    return replace(model, norm=LAYER_NORM)


def pythia(num_layers: int, d_model: int, num_heads: int, vocab_size: int = 50_304) -> ModelConfig:
    """EleutherAI (Biderman et al. 2023), GPT-NeoX: parallel branches, a quarter of each head turned, untied head."""
    rope = RopeConfig(fraction=0.25)
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=2048,
        d_model=d_model,
        num_layers=num_layers,
        attention=AttentionConfig(num_heads=num_heads, qkv_bias=True, out_bias=True, rope=rope),
        mlp=MLPConfig(d_ff=4 * d_model, activation="gelu", bias=True),
        norm=LAYER_NORM,
        residual=ResidualConfig(parallel=True),
        tie_embeddings=False,
    )


def falcon(num_layers: int, d_model: int, num_heads: int, num_kv_heads: int, shared_norm: bool) -> ModelConfig:
    """TII (Almazrouei et al. 2023): parallel branches, few key/value heads, no biases but in LayerNorm."""
    return ModelConfig(
        vocab_size=65_024,
        context_length=2048,
        d_model=d_model,
        num_layers=num_layers,
        attention=AttentionConfig(num_heads=num_heads, num_kv_heads=num_kv_heads),
        mlp=MLPConfig(d_ff=4 * d_model, activation="gelu"),
        norm=LAYER_NORM,
        residual=ResidualConfig(parallel=True, shared_norm=shared_norm),
    )


smollm2 = partial(llama, vocab_size=49_152, context_length=8192, tie=True)
smollm2_rope = RopeConfig(theta=100_000.0)

PRESETS = {
    # Microsoft
    "phi3-mini": partial(llama, 32, 3072, 32, 32, 8192, vocab_size=32_064, context_length=4096, window=2047),
    # Hugging Face
    "smollm2-135m": partial(smollm2, 30, 576, 9, 3, 1536, rope=smollm2_rope),
    "smollm2-360m": partial(smollm2, 32, 960, 15, 5, 2560, rope=smollm2_rope),
    "smollm2-1.7b": partial(smollm2, 24, 2048, 32, 32, 8192, rope=RopeConfig(theta=130_000.0)),
    "olmo2-7b": partial(olmo2, 32, 4096, 32, 32, 11_008),
    "olmo2-13b": partial(olmo2, 40, 5120, 40, 40, 13_824),
    "granite3.3-8b": partial(granite, 40, 4096, 32, 8, 12_800),
    "stablelm-3b": partial(stablelm, 32, 2560, 32, 32, 6912),
    "pythia-160m": partial(pythia, 12, 768, 12),
    "pythia-410m": partial(pythia, 24, 1024, 16),
    "pythia-1.4b": partial(pythia, 24, 2048, 16),
    "pythia-6.9b": partial(pythia, 32, 4096, 32, vocab_size=50_432),
    "pythia-12b": partial(pythia, 36, 5120, 40, vocab_size=50_688),
    "falcon-7b": partial(falcon, 32, 4544, 71, 1, shared_norm=True),
    "falcon-40b": partial(falcon, 60, 8192, 128, 8, shared_norm=False),
}
