"""Architectures as values: every dial of every layer."""

from jaxllm.models.config.attention import (
    AttentionConfig,
    DifferentialAttentionConfig,
    LatentAttentionConfig,
    RopeConfig,
    SparseAttentionConfig,
)
from jaxllm.models.config.channel import MLPConfig, MoEConfig
from jaxllm.models.config.cross_attention import CrossAttentionConfig, RelativeBiasConfig
from jaxllm.models.config.encoder import EncoderConfig
from jaxllm.models.config.encoder_decoder import EncoderDecoderConfig
from jaxllm.models.config.model import Block, ChannelMixer, ModelConfig, Segment, SequenceMixer
from jaxllm.models.config.recurrent import (
    GatedDeltaConfig,
    Mamba2Config,
    MambaConfig,
    RWKVChannelConfig,
    RWKVConfig,
)
from jaxllm.models.config.structure import (
    EmbeddingConfig,
    HeadConfig,
    MultiTokenConfig,
    MuPConfig,
    NormConfig,
    ResidualConfig,
)
from jaxllm.models.config.vision import VisionConfig, VisionLanguageConfig

__all__ = [
    "AttentionConfig",
    "Block",
    "ChannelMixer",
    "CrossAttentionConfig",
    "DifferentialAttentionConfig",
    "EmbeddingConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "GatedDeltaConfig",
    "HeadConfig",
    "LatentAttentionConfig",
    "MLPConfig",
    "Mamba2Config",
    "MambaConfig",
    "MoEConfig",
    "ModelConfig",
    "MuPConfig",
    "MultiTokenConfig",
    "NormConfig",
    "RWKVChannelConfig",
    "RWKVConfig",
    "RelativeBiasConfig",
    "ResidualConfig",
    "RopeConfig",
    "Segment",
    "SequenceMixer",
    "SparseAttentionConfig",
    "VisionConfig",
    "VisionLanguageConfig",
]
