"""Meta: Llama 1 (Touvron et al. 2023), 2 (2023) and 3 (Grattafiori et al. 2024)."""

from __future__ import annotations

from functools import partial

from jaxllm.models.config import AttentionConfig, MLPConfig, ModelConfig, NormConfig, RopeConfig

ROPE = RopeConfig()


def llama(
    num_layers: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    d_ff: int,
    *,
    vocab_size: int,
    context_length: int,
    rope: RopeConfig = ROPE,
    epsilon: float = 1e-5,
    tie: bool = False,
    window: int = 0,
) -> ModelConfig:
    """RMSNorm before each branch, rotary positions, SwiGLU, no biases."""
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=d_model,
        num_layers=num_layers,
        attention=AttentionConfig(num_heads=num_heads, num_kv_heads=num_kv_heads, rope=rope, window=window),
        mlp=MLPConfig(d_ff=d_ff, activation="silu", gated=True),
        norm=NormConfig(epsilon=epsilon),
        tie_embeddings=tie,
    )


def stretched(factor: float) -> RopeConfig:
    """The rotary frequencies of Llama 3.1 and 3.2: those of Llama 3, long waves stretched."""
    return RopeConfig(theta=500_000.0, scaling="llama3", factor=factor, original_context=8192)


llama1 = partial(llama, vocab_size=32_000, context_length=2048, epsilon=1e-6)
llama2 = partial(llama, vocab_size=32_000, context_length=4096)
llama3 = partial(llama, vocab_size=128_256, context_length=8192, rope=RopeConfig(theta=500_000.0))
llama31 = partial(llama, vocab_size=128_256, context_length=131_072, rope=stretched(8.0))
llama32 = partial(llama, vocab_size=128_256, context_length=131_072, rope=stretched(32.0), tie=True)

PRESETS = {
    "llama1-7b": partial(llama1, 32, 4096, 32, 32, 11_008),
    "llama2-7b": partial(llama2, 32, 4096, 32, 32, 11_008),
    "llama2-13b": partial(llama2, 40, 5120, 40, 40, 13_824),
    "llama2-70b": partial(llama2, 80, 8192, 64, 8, 28_672),
    "llama3-8b": partial(llama3, 32, 4096, 32, 8, 14_336),
    "llama3-70b": partial(llama3, 80, 8192, 64, 8, 28_672),
    # The largest was released with 3.1 only.
    "llama3-405b": partial(llama31, 126, 16_384, 128, 8, 53_248),
    "llama3.1-8b": partial(llama31, 32, 4096, 32, 8, 14_336),
    "llama3.1-70b": partial(llama31, 80, 8192, 64, 8, 28_672),
    "llama3.1-405b": partial(llama31, 126, 16_384, 128, 8, 53_248),
    "llama3.2-1b": partial(llama32, 16, 2048, 32, 8, 8192),
    "llama3.2-3b": partial(llama32, 28, 3072, 24, 8, 8192),
}
