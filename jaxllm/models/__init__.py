"""Declarations, layers and whole architectures: functions over frozen pytree dataclasses."""

from jaxllm.models.config import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, RopeConfig
from jaxllm.models.decoder import Cache, Decoder, decoder_spec, forward, hidden_states, make_cache, output_head, unembed
from jaxllm.models.presets import PRESETS

__all__ = [
    "PRESETS",
    "AttentionConfig",
    "Block",
    "Cache",
    "Decoder",
    "MLPConfig",
    "ModelConfig",
    "NormConfig",
    "RopeConfig",
    "decoder_spec",
    "forward",
    "hidden_states",
    "make_cache",
    "output_head",
    "unembed",
]
