"""OLMo 2 (2024): norms on the output of each branch, and on all of the queries and of the keys."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    ATTENTION,
    llama_weights,
    read_attention,
    read_mlp,
    read_norm,
    read_sizes,
    written_sizes,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, ResidualConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes, bias = read_sizes(hf), hf.flag("attention_bias", False)
    return ModelConfig(
        **sizes,
        attention=read_attention(hf, sizes["context_length"], qkv_bias=bias, out_bias=bias, qk_norm="whole"),
        mlp=read_mlp(hf),
        norm=read_norm(hf, epsilon=1e-5),
        residual=ResidualConfig(norm="branch"),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    return written_sizes(config) | {"attention_bias": first(config, AttentionConfig).qkv_bias}


NORMS = (
    tensor("mixer_post_norm.scale", "post_attention_layernorm.weight"),
    tensor("channel_post_norm.scale", "post_feedforward_layernorm.weight"),
)
WHOLE = tuple(
    tensor(f"{ours}_norm.scale", f"self_attn.{theirs}_norm.weight", "(H K) -> H K")
    for ours, theirs in (("query", "q"), ("key", "k"))
)


def weights(config: ModelConfig) -> WeightMap:
    rules = (*(rule for rule in ATTENTION if not rule.ours.endswith("norm.scale")), *WHOLE)
    return llama_weights(config, block=NORMS, mixers={AttentionConfig: rules})


FAMILIES = (Family("olmo2", "Olmo2ForCausalLM", config_from, config_to, weights),)
