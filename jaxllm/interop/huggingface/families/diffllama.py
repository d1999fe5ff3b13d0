"""DiffLlama: Llama with differential attention, version 1 (Ye et al. 2024)."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_mlp,
    read_norm,
    read_sizes,
    written_activation,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import Block, DifferentialAttentionConfig, MLPConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes, maps = read_sizes(hf), hf.integer("num_attention_heads")
    key_maps = hf.integer("num_key_value_heads", maps)
    if maps % 2 or key_maps % 2:
        raise hf.error(f"num_attention_heads={maps} and num_key_value_heads={key_maps} count maps, two a head: even")
    hf.ignore("lambda_std_dev")
    mixer = DifferentialAttentionConfig(
        version=1,
        num_heads=maps // 2,
        num_kv_heads=key_maps // 2,
        head_dim=hf.integer("head_dim", sizes["d_model"] // maps),
        rope=read_rope(hf, sizes["context_length"]),
        head_norm_scale=False,
        bias=hf.flag("attention_bias", False),
    )
    return ModelConfig(**sizes, pattern=(Block(mixer),), mlp=read_mlp(hf), norm=read_norm(hf, epsilon=1e-5))


def config_to(config: ModelConfig) -> dict[str, Any]:
    mixer, mlp = first(config, DifferentialAttentionConfig), first(config, MLPConfig)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "num_attention_heads": 2 * mixer.num_heads,
        "num_key_value_heads": 2 * mixer.kv_heads,
        "head_dim": config.head_width(mixer),
        "attention_bias": mixer.bias,
        "intermediate_size": mlp.d_ff,
        "hidden_act": written_activation(mlp.activation),
        "rms_norm_eps": config.norm.epsilon,
        **rope_entries(mixer.rope, config.context_length),
    }


# Theirs has the heads of the first map before those of the second; two of its value heads make one.
ATTENTION = (
    *(
        rule
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"))
        for rule in (
            tensor(ours, f"self_attn.{theirs}.weight", "(m H K) D -> D H m K"),
            tensor(f"{ours}_bias", f"self_attn.{theirs}.bias", "(m H K) -> H m K"),
        )
    ),
    tensor("value", "self_attn.v_proj.weight", "(m G K) D -> D G (m K)", m=(0, 2, 2)),
    tensor("value_bias", "self_attn.v_proj.bias", "(m G K) -> G (m K)", m=(0, 2, 2)),
    tensor("out", "self_attn.o_proj.weight", "D (H V) -> H V D"),
    tensor("out_bias", "self_attn.o_proj.bias"),
    *(
        tensor(f"lambda_{ours}_{m}", f"self_attn.lambda_{theirs}{m}")
        for ours, theirs in (("query", "q"), ("key", "k"))
        for m in (1, 2)
    ),
)


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(config, mixers={DifferentialAttentionConfig: ATTENTION})


FAMILIES = (Family("diffllama", "DiffLlamaForCausalLM", config_from, config_to, weights),)
