"""Llama 1 to 3.3 (Touvron et al. 2023; Grattafiori et al. 2024); Mistral (Jiang et al. 2023), which adds a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_attention,
    read_mlp,
    read_norm,
    read_sizes,
    written_sizes,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig


def llama_from(hf: ConfigFile) -> ModelConfig:
    sizes = read_sizes(hf)
    bias = hf.flag("attention_bias", False)
    return ModelConfig(
        **sizes,
        attention=read_attention(hf, sizes["context_length"], qkv_bias=bias, out_bias=bias),
        mlp=read_mlp(hf, bias=hf.flag("mlp_bias", False)),
        norm=read_norm(hf),
    )


def llama_to(config: ModelConfig) -> dict[str, Any]:
    return written_sizes(config) | {
        "attention_bias": first(config, AttentionConfig).qkv_bias,
        "mlp_bias": first(config, MLPConfig).bias,
    }


def mistral_from(hf: ConfigFile) -> ModelConfig:
    window = hf.integer("sliding_window", 0 if hf.mentions("sliding_window") else 4096)
    config = llama_from(hf)
    return replace(config, attention=replace(config.attention, window=window))


def mistral_to(config: ModelConfig) -> dict[str, Any]:
    return written_sizes(config) | {"sliding_window": first(config, AttentionConfig).window or None}


FAMILIES = (
    Family("llama", "LlamaForCausalLM", llama_from, llama_to, llama_weights),
    Family("mistral", "MistralForCausalLM", mistral_from, mistral_to, llama_weights),
)
