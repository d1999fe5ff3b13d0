"""Alibaba: Qwen 2.5 (2024), Qwen 3 and Qwen3-Next (2025)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    GatedDeltaConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RopeConfig,
)
from jaxllm.models.presets.meta import llama

ROPE = RopeConfig(theta=1e6)


def qwen25(
    num_layers: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    d_ff: int,
    *,
    vocab_size: int = 152_064,
    context_length: int = 131_072,
    epsilon: float = 1e-6,
    tie: bool = False,
) -> ModelConfig:
    """Llama with biases on queries, keys and values."""
    sizes = (num_layers, d_model, num_heads, num_kv_heads, d_ff)
    model = llama(*sizes, vocab_size=vocab_size, context_length=context_length, rope=ROPE, epsilon=epsilon, tie=tie)
    return replace(model, attention=replace(model.attention, qkv_bias=True))


def qwen3(
    num_layers: int,
    d_model: int,
    num_heads: int,
    num_kv_heads: int,
    d_ff: int,
    *,
    tie: bool = False,
    experts: MoEConfig | None = None,
) -> ModelConfig:
    """Llama with heads of 128 units and normalized queries and keys."""
    sizes = (num_layers, d_model, num_heads, num_kv_heads, d_ff)
    model = llama(*sizes, vocab_size=151_936, context_length=40_960, rope=ROPE, epsilon=1e-6, tie=tie)
    attention = replace(model.attention, head_dim=128, qk_norm="shared")
    return replace(model, attention=attention, pattern=(Block(channel=experts),) if experts else model.pattern)


def experts_of(d_ff: int) -> MoEConfig:
    return MoEConfig(num_experts=128, top_k=8, d_ff=d_ff, normalize=True, load_loss=0.008)


def qwen3_next() -> ModelConfig:
    """Three layers of gated delta rule to one of gated attention; 512 small experts and a shared one."""
    experts = MoEConfig(
        num_experts=512, top_k=10, d_ff=512, normalize=True, load_loss=0.01, shared_d_ff=512, shared_gate=True
    )
    linear = GatedDeltaConfig(num_heads=32, num_key_heads=16, key_dim=128, value_dim=128, d_conv=4)
    return ModelConfig(
        vocab_size=151_936,
        context_length=262_144,
        d_model=2048,
        num_layers=48,
        pattern=(*[Block(linear, experts)] * 3, Block("attention", experts)),
        attention=AttentionConfig(
            num_heads=16,
            num_kv_heads=2,
            head_dim=256,
            qk_norm="shared",
            gate=True,
            rope=RopeConfig(theta=1e7, fraction=0.25),
        ),
        norm=NormConfig(epsilon=1e-6, unit_offset=True),
        tie_embeddings=False,
    )


small = partial(qwen25, vocab_size=151_936, tie=True)

PRESETS = {
    "qwen2.5-0.5b": partial(small, 24, 896, 14, 2, 4864, context_length=32_768),
    "qwen2.5-1.5b": partial(small, 28, 1536, 12, 2, 8960),
    "qwen2.5-3b": partial(small, 36, 2048, 16, 2, 11_008, context_length=32_768),
    "qwen2.5-7b": partial(qwen25, 28, 3584, 28, 4, 18_944),
    "qwen2.5-14b": partial(qwen25, 48, 5120, 40, 8, 13_824, epsilon=1e-5),
    "qwen2.5-32b": partial(qwen25, 64, 5120, 40, 8, 27_648, epsilon=1e-5),
    "qwen2.5-72b": partial(qwen25, 80, 8192, 64, 8, 29_568, epsilon=1e-5),
    "qwen3-0.6b": partial(qwen3, 28, 1024, 16, 8, 3072, tie=True),
    "qwen3-1.7b": partial(qwen3, 28, 2048, 16, 8, 6144, tie=True),
    "qwen3-4b": partial(qwen3, 36, 2560, 32, 8, 9728, tie=True),
    "qwen3-8b": partial(qwen3, 36, 4096, 32, 8, 12_288),
    "qwen3-14b": partial(qwen3, 40, 5120, 40, 8, 17_408),
    "qwen3-32b": partial(qwen3, 64, 5120, 64, 8, 25_600),
    "qwen3-30b-a3b": partial(qwen3, 48, 2048, 32, 4, 6144, experts=experts_of(768)),
    "qwen3-235b-a22b": partial(qwen3, 94, 4096, 64, 4, 12_288, experts=experts_of(1536)),
    "qwen3-next-80b-a3b": qwen3_next,
}
