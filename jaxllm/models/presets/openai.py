"""OpenAI: GPT-2 (Radford et al. 2019) and GPT-OSS (2025)."""

from __future__ import annotations

from functools import partial

from jaxllm.models.config import AttentionConfig, Block, MLPConfig, ModelConfig, MoEConfig, NormConfig, RopeConfig


def gpt2(num_layers: int, d_model: int, num_heads: int) -> ModelConfig:
    """LayerNorm, learned positions, GELU, biases everywhere, tied head."""
    return ModelConfig(
        vocab_size=50257,
        context_length=1024,
        d_model=d_model,
        num_layers=num_layers,
        attention=AttentionConfig(num_heads=num_heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(d_ff=4 * d_model, activation="gelu_tanh", bias=True),
        norm=NormConfig(kind="layernorm", bias=True),
        positions="learned",
    )


def gpt_oss(num_layers: int, num_experts: int) -> ModelConfig:
    """Sinks, windows of 128 in every second layer, experts with biases and a clamped SwiGLU."""

    def attention(window: int) -> AttentionConfig:
        return AttentionConfig(
            num_heads=64,
            num_kv_heads=8,
            head_dim=64,
            qkv_bias=True,
            out_bias=True,
            sinks=True,
            window=window,
            rope=RopeConfig(theta=150_000.0, scaling="yarn", factor=32.0, original_context=4096, truncate=False),
        )

    experts = MoEConfig(
        num_experts=num_experts,
        top_k=4,
        d_ff=2880,
        activation="clamped_swiglu",
        bias=True,
        router="softmax_of_top_k",
        router_bias=True,
    )
    return ModelConfig(
        vocab_size=201_088,
        context_length=131_072,
        d_model=2880,
        num_layers=num_layers,
        pattern=(Block(attention(128), experts), Block(attention(0), experts)),
        attention=attention(0),
        tie_embeddings=False,
    )


PRESETS = {
    "gpt2": partial(gpt2, 12, 768, 12),
    "gpt2-medium": partial(gpt2, 24, 1024, 16),
    "gpt2-large": partial(gpt2, 36, 1280, 20),
    "gpt2-xl": partial(gpt2, 48, 1600, 25),
    "gpt-oss-20b": partial(gpt_oss, 24, 32),
    "gpt-oss-120b": partial(gpt_oss, 36, 128),
}
