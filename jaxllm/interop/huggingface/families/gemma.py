"""Gemma and Gemma 2 (2024): norms whose scale is stored less 1, embeddings times sqrt(d_model), and more of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_attention,
    read_layer_types,
    read_mlp,
    read_sizes,
    windowed,
    written_sizes,
    written_windows,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    NormConfig,
    ResidualConfig,
)


def read_gemma(hf: ConfigFile, *, context: int, activation: str, **attention: Any) -> ModelConfig:
    hf.only("use_bidirectional_attention", False)
    sizes, bias = read_sizes(hf, context=context, tied=True), hf.flag("attention_bias", False)
    return ModelConfig(
        **sizes,
        attention=read_attention(hf, sizes["context_length"], qkv_bias=bias, out_bias=bias, **attention),
        mlp=read_mlp(hf, activation=hf.activation(activation, "gelu_pytorch_tanh")),
        norm=NormConfig(unit_offset=True, epsilon=hf.number("rms_norm_eps", 1e-6)),
        embedding=EmbeddingConfig(scale=math.sqrt(sizes["d_model"])),
    )


def written_gemma(config: ModelConfig) -> dict[str, Any]:
    entries = written_sizes(config)
    return entries | {
        "hidden_activation": entries["hidden_act"],
        "attention_bias": first(config, AttentionConfig).qkv_bias,
    }


def gemma_from(hf: ConfigFile) -> ModelConfig:
    name = "hidden_activation" if "hidden_activation" in hf else "hidden_act"
    config = read_gemma(hf, context=8192, activation=name)
    hf.ignore("hidden_act", "hidden_activation")
    # The first configs said gelu and meant its approximation by tanh.
    meant = "gelu_tanh" if config.mlp.activation == "gelu" else config.mlp.activation
    return replace(config, mlp=replace(config.mlp, activation=meant))


def _read_windows(hf: ConfigFile, config: ModelConfig, period: int) -> dict[str, Any]:
    layers = read_layer_types(hf, config.num_layers, lambda i: bool((i + 1) % period))
    window = hf.integer("sliding_window", 4096)
    return windowed(config.attention, config.mlp, window, layers)


def score_factor(hf: ConfigFile) -> dict[str, float]:
    return {
        "scale": hf.number("query_pre_attn_scalar", 256) ** -0.5,
        "softcap": hf.number("attn_logit_softcapping", 0),
    }


def gemma2_from(hf: ConfigFile) -> ModelConfig:
    # Its caps are there unless they are set to null.
    caps = {
        name: hf.number(name, 0 if hf.mentions(name) else default)
        for name, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))
    }
    scores = score_factor(hf) | {"softcap": caps["attn_logit_softcapping"]}
    config = read_gemma(hf, context=8192, activation="hidden_activation", **scores)
    hf.ignore("hidden_act", "cache_implementation", "sliding_window_size")
    return replace(
        config,
        residual=ResidualConfig(norm="sandwich"),
        head=HeadConfig(softcap=caps["final_logit_softcapping"]),
        **_read_windows(hf, config, 2),
    )


def written_caps(config: ModelConfig) -> dict[str, Any]:
    attention = first(config, AttentionConfig)
    squared = (attention.scale or config.head_width(attention) ** -0.5) ** -2
    return {
        "query_pre_attn_scalar": round(squared),  # transformers wants a whole number
        "attn_logit_softcapping": attention.softcap or None,
        "final_logit_softcapping": config.head.softcap or None,
    }


def gemma2_to(config: ModelConfig) -> dict[str, Any]:
    return written_gemma(config) | written_caps(config) | written_windows(config)


NORMS = tuple(
    tensor(f"{ours}.scale", f"{theirs}.weight")
    for ours, theirs in (
        ("mixer_norm", "input_layernorm"),
        ("mixer_post_norm", "post_attention_layernorm"),
        ("channel_norm", "pre_feedforward_layernorm"),
        ("channel_post_norm", "post_feedforward_layernorm"),
    )
)


def sandwich_weights(config: ModelConfig) -> WeightMap:
    return llama_weights(config, block=NORMS)


FAMILIES = (
    Family("gemma", "GemmaForCausalLM", gemma_from, written_gemma, llama_weights),
    Family("gemma2", "Gemma2ForCausalLM", gemma2_from, gemma2_to, sandwich_weights),
)
