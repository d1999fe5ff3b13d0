"""Mixtral (Jiang et al. 2024): Mistral with experts in every layer."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.experts import expert_rules, read_experts
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_attention,
    read_norm,
    read_sizes,
    written_sizes,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import WeightMap
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, MoEConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes = read_sizes(hf, context=131_072)
    attention = read_attention(hf, sizes["context_length"], theta=1e6, window=hf.integer("sliding_window", 0))
    experts = MoEConfig(
        num_experts=read_experts(hf),
        top_k=hf.integer("num_experts_per_tok", 2),
        d_ff=hf.integer("intermediate_size"),
        activation=hf.activation(),
        normalize=True,
        load_loss=hf.number("router_aux_loss_coef", 0),
    )
    return ModelConfig(
        **sizes, attention=attention, norm=read_norm(hf, epsilon=1e-5), pattern=(Block(channel=experts),)
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    experts = first(config, MoEConfig)
    return written_sizes(config, experts) | {
        "sliding_window": first(config, AttentionConfig).window or None,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.top_k,
        "router_aux_loss_coef": experts.load_loss,
    }


EXPERTS = expert_rules("block_sparse_moe", names=("w3", "w1", "w2"))


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(config, channels={MoEConfig: EXPERTS})


FAMILIES = (Family("mixtral", "MixtralForCausalLM", config_from, config_to, weights),)
