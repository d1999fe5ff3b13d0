"""Qwen 2 and 2.5 (2024): biases on queries, keys and values. Qwen 3 (2025): normalized queries and keys instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_attention,
    read_layer_types,
    read_mlp,
    read_norm,
    read_sizes,
    windowed,
    written_sizes,
    written_windows,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig


def read_qwen(hf: ConfigFile, **attention: Any) -> ModelConfig:
    """Windows only where use_sliding_window says so: in all layers from max_window_layers on."""
    sizes = read_sizes(hf, context=32_768)
    config = ModelConfig(
        **sizes,
        attention=read_attention(hf, sizes["context_length"], **attention),
        mlp=read_mlp(hf),
        norm=read_norm(hf),
    )
    window, first = hf.integer("sliding_window", 4096), hf.integer("max_window_layers", 28)
    if not hf.flag("use_sliding_window", False):
        window = 0
    layers = read_layer_types(hf, config.num_layers, lambda i: window > 0 and i >= first)
    if any(layers) and not window:
        raise hf.error("layer_types names sliding_attention, but use_sliding_window is not true")
    return replace(config, **windowed(config.attention, config.mlp, window, layers))


def qwen2_from(hf: ConfigFile) -> ModelConfig:
    return read_qwen(hf, qkv_bias=True)


def qwen3_from(hf: ConfigFile) -> ModelConfig:
    bias = hf.flag("attention_bias", False)
    return read_qwen(hf, qkv_bias=bias, out_bias=bias, qk_norm="shared", head_dim=128)


def written_qwen_windows(config: ModelConfig) -> dict[str, Any]:
    entries = written_windows(config)
    first = next((i for i, name in enumerate(entries["layer_types"]) if name == "sliding_attention"), config.num_layers)
    return entries | {"use_sliding_window": first < config.num_layers, "max_window_layers": first}


def qwen2_to(config: ModelConfig) -> dict[str, Any]:
    return written_sizes(config) | written_qwen_windows(config)


def qwen3_to(config: ModelConfig) -> dict[str, Any]:
    return qwen2_to(config) | {"attention_bias": first(config, AttentionConfig).qkv_bias}


FAMILIES = (
    Family("qwen2", "Qwen2ForCausalLM", qwen2_from, qwen2_to, llama_weights),
    Family("qwen3", "Qwen3ForCausalLM", qwen3_from, qwen3_to, llama_weights),
)
