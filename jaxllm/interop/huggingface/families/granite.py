"""Granite 3 (2024): Llama with factors on embeddings, scores, branches and logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama import llama_from, llama_to
from jaxllm.interop.huggingface.families.llama_like import llama_weights
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, EmbeddingConfig, HeadConfig, ResidualConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    config = llama_from(hf)
    return replace(
        config,
        attention=replace(config.attention, scale=hf.number("attention_multiplier", 1.0)),
        embedding=EmbeddingConfig(scale=hf.number("embedding_multiplier", 1.0)),
        residual=ResidualConfig(multiplier=hf.number("residual_multiplier", 1.0)),
        head=HeadConfig(scale=1 / hf.number("logits_scaling", 1.0)),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention = first(config, AttentionConfig)
    return llama_to(config) | {
        "attention_multiplier": attention.scale or config.head_width(attention) ** -0.5,
        "embedding_multiplier": config.embedding.scale,
        "residual_multiplier": config.residual.multiplier,
        "logits_scaling": 1 / config.head.scale,
    }


FAMILIES = (Family("granite", "GraniteForCausalLM", config_from, config_to, llama_weights),)
