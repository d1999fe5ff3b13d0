"""Models whose memory does not grow with the text, and one that mixes both kinds of layer."""

from __future__ import annotations

from functools import partial

from jaxllm.models.config import (
    AttentionConfig,
    Block,
    EmbeddingConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    NormConfig,
    RWKVChannelConfig,
    RWKVConfig,
)


def mamba(num_layers: int, d_model: int) -> ModelConfig:
    """Mamba (Gu and Dao 2023): one branch a layer, no positions, tied head."""
    return ModelConfig(
        vocab_size=50_280,
        context_length=2048,
        d_model=d_model,
        num_layers=num_layers,
        pattern=(Block(MambaConfig(), "none"),),
        positions="none",
    )


def mamba2(num_layers: int, d_model: int) -> ModelConfig:
    """Mamba-2 (Dao and Gu 2024)."""
    return ModelConfig(
        vocab_size=50_288,
        context_length=2048,
        d_model=d_model,
        num_layers=num_layers,
        pattern=(Block(Mamba2Config(chunk=256), "none"),),
        positions="none",
    )


def jamba() -> ModelConfig:
    """AI21's Jamba (Lieber et al. 2024): one attention layer in eight, experts in every second, no positions."""
    experts = MoEConfig(num_experts=16, top_k=2, d_ff=14_336, load_loss=0.002)
    inner = MambaConfig(inner_norm=True)
    pattern = tuple(Block("attention" if i == 4 else inner, experts if i % 2 else "mlp") for i in range(8))
    return ModelConfig(
        vocab_size=65_536,
        context_length=262_144,
        d_model=4096,
        num_layers=32,
        pattern=pattern,
        attention=AttentionConfig(num_heads=32, num_kv_heads=8),
        mlp=MLPConfig(d_ff=14_336, activation="silu", gated=True),
        norm=NormConfig(epsilon=1e-6),
        positions="none",
        tie_embeddings=False,
    )


def rwkv4(num_layers: int, d_model: int) -> ModelConfig:
    """RWKV-4 (Peng et al. 2023), trained on the Pile."""
    return ModelConfig(
        vocab_size=50_277,
        context_length=1024,
        d_model=d_model,
        num_layers=num_layers,
        pattern=(Block(RWKVConfig(), RWKVChannelConfig()),),
        norm=NormConfig(kind="layernorm", bias=True),
        positions="none",
        embedding=EmbeddingConfig(norm=True),
        tie_embeddings=False,
    )


PRESETS = {
    "mamba-130m": partial(mamba, 24, 768),
    "mamba-370m": partial(mamba, 48, 1024),
    "mamba-790m": partial(mamba, 48, 1536),
    "mamba-1.4b": partial(mamba, 48, 2048),
    "mamba-2.8b": partial(mamba, 64, 2560),
    "mamba2-130m": partial(mamba2, 24, 768),
    "mamba2-370m": partial(mamba2, 48, 1024),
    "mamba2-1.3b": partial(mamba2, 48, 2048),
    "mamba2-2.7b": partial(mamba2, 64, 2560),
    "jamba-v0.1": jamba,
    "rwkv-4-169m": partial(rwkv4, 12, 768),
    "rwkv-4-430m": partial(rwkv4, 24, 1024),
}
