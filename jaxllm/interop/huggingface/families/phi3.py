"""Phi-3 (Abdin et al. 2024) and Phi-4: Llama with fused matrices, LongRoPE, in some a window or partial rotation."""

from __future__ import annotations

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
from jaxllm.interop.huggingface.weight_map import Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes = read_sizes(hf, context=4096)
    config = ModelConfig(
        **sizes,
        attention=read_attention(hf, sizes["context_length"], window=hf.integer("sliding_window", 0)),
        mlp=read_mlp(hf),
        norm=read_norm(hf, epsilon=1e-5),
    )
    rope = config.attention.rope
    if rope.scaling not in ("none", "longrope"):
        raise hf.error(f"rope_scaling of type {rope.scaling} is not supported for phi3; supported: longrope")
    return config


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention = first(config, AttentionConfig)
    entries = written_sizes(config) | {"sliding_window": attention.window or None}
    if attention.rope.scaling == "longrope":
        # How much longer is not an entry: it takes that from the two lengths.
        original = attention.rope.original_context or config.context_length
        entries["original_max_position_embeddings"] = original
        scaling = entries["rope_scaling"]
        entries["rope_scaling"] = {
            "type": "longrope",
            **{name: scaling[name] for name in ("short_factor", "long_factor", "attention_factor") if name in scaling},
        }
    return entries


def _attention(config: AttentionConfig) -> tuple[Tensor, ...]:
    H, G = config.num_heads, config.kv_heads
    total = H + 2 * G
    return (
        tensor("query", "self_attn.qkv_proj.weight", "(H K) D -> D H K", H=(0, H, total)),
        tensor("key", "self_attn.qkv_proj.weight", "(H K) D -> D H K", H=(H, H + G, total)),
        tensor("value", "self_attn.qkv_proj.weight", "(H K) D -> D H K", H=(H + G, total, total)),
        tensor("out", "self_attn.o_proj.weight", "D (H K) -> H K D"),
    )


MLP = (
    tensor("gate", "mlp.gate_up_proj.weight", "(p F) D -> D F", p=(0, 1, 2)),
    tensor("up", "mlp.gate_up_proj.weight", "(p F) D -> D F", p=(1, 2, 2)),
    tensor("down", "mlp.down_proj.weight", "D F -> F D"),
)


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(
        config, mixers={AttentionConfig: _attention(first(config, AttentionConfig))}, channels={MLPConfig: MLP}
    )


FAMILIES = (Family("phi3", "Phi3ForCausalLM", config_from, config_to, weights),)
