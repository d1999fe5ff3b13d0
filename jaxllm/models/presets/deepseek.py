"""DeepSeek-V2 (2024) and V3 (2024), without the modules that predict further tokens."""

from __future__ import annotations

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    LatentAttentionConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RopeConfig,
)


def deepseek(
    num_layers: int, d_model: int, vocab_size: int, d_ff: int, dense_layers: int, experts: MoEConfig, mscale: float
) -> ModelConfig:
    """Latent attention; after the first dense layers, experts of which one or two are shared by all tokens."""
    rope = RopeConfig(
        interleaved=True, scaling="yarn", factor=40.0, original_context=4096, mscale=mscale, mscale_all_dim=mscale
    )
    latent = LatentAttentionConfig(
        num_heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, rope=rope
    )
    return ModelConfig(
        vocab_size=vocab_size,
        context_length=163_840,
        d_model=d_model,
        num_layers=num_layers,
        prologue=(Block(latent),) * dense_layers,
        pattern=(Block(latent, experts),),
        attention=AttentionConfig(num_heads=128),
        mlp=MLPConfig(d_ff=d_ff, activation="silu", gated=True),
        norm=NormConfig(epsilon=1e-6),
        tie_embeddings=False,
    )


def deepseek_v2() -> ModelConfig:
    experts = MoEConfig(
        num_experts=160,
        top_k=6,
        d_ff=1536,
        scale=16.0,
        num_groups=8,
        top_k_groups=3,
        group_score="max",
        load_loss=0.006,
        shared_d_ff=2 * 1536,
    )
    return deepseek(60, 5120, 102_400, 12_288, 1, experts, mscale=0.707)


def deepseek_v3() -> ModelConfig:
    experts = MoEConfig(
        num_experts=256,
        top_k=8,
        d_ff=2048,
        router="sigmoid",
        normalize=True,
        scale=2.5,
        num_groups=8,
        top_k_groups=4,
        balance_rate=0.001,
        sequence_loss=0.0001,
        shared_d_ff=2048,
    )
    return deepseek(61, 7168, 129_280, 18_432, 3, experts, mscale=1.0)


PRESETS = {"deepseek-v2": deepseek_v2, "deepseek-v3": deepseek_v3}
