"""Published architectures by name, with their exact parameter counts asserted in the tests."""

from __future__ import annotations

from collections.abc import Callable

from jaxllm.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig


def gpt2(num_layers: int, d_model: int, num_heads: int) -> ModelConfig:
    """GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases everywhere, tied head."""
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


def llama3_8b() -> ModelConfig:
    """Llama 3 8B (Grattafiori et al. 2024, table 3): RMSNorm, RoPE, SwiGLU, 8 key/value heads, untied head."""
    return ModelConfig(
        vocab_size=128_256,
        context_length=8192,
        d_model=4096,
        num_layers=32,
        attention=AttentionConfig(num_heads=32, num_kv_heads=8, rope=RopeConfig(theta=500_000.0)),
        mlp=MLPConfig(d_ff=14_336, activation="silu", gated=True),
        tie_embeddings=False,
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "gpt2": lambda: gpt2(12, 768, 12),
    "gpt2-medium": lambda: gpt2(24, 1024, 16),
    "gpt2-large": lambda: gpt2(36, 1280, 20),
    "gpt2-xl": lambda: gpt2(48, 1600, 25),
    "llama3-8b": llama3_8b,
}
