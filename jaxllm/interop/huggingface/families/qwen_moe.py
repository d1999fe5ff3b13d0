"""Qwen 1.5 and 2 with experts, one of them shared (2024), and Qwen 3 with experts (2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.experts import expert_rules, read_experts
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    mlp_rules,
    read_attention,
    read_layer_types,
    read_mlp,
    read_norm,
    read_sizes,
    written_sizes,
    written_windows,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, MLPConfig, MoEConfig


def read_sparse_layers(hf: ConfigFile, num_layers: int) -> list[bool]:
    """Which layers have experts, by Qwen's two entries."""
    dense, step = hf.list("mlp_only_layers", []), hf.integer("decoder_sparse_step", 1)
    return [i not in dense and (i + 1) % step == 0 for i in range(num_layers)]


def read_qwen_experts(hf: ConfigFile, *, shared: bool, normalize: bool = False) -> MoEConfig:
    return MoEConfig(
        num_experts=read_experts(hf),
        top_k=hf.integer("num_experts_per_tok"),
        d_ff=hf.integer("moe_intermediate_size"),
        activation=hf.activation(),
        normalize=hf.flag("norm_topk_prob", normalize),
        load_loss=hf.number("router_aux_loss_coef", 0),
        shared_d_ff=hf.integer("shared_expert_intermediate_size") if shared else 0,
        shared_gate=shared,
    )


def _read_qwen(hf: ConfigFile, experts: MoEConfig, windows: Sequence[bool], **attention: Any) -> ModelConfig:
    sizes = read_sizes(hf, context=32_768)
    attended = read_attention(hf, sizes["context_length"], **attention)
    local, mlp = replace(attended, window=_window(hf)), read_mlp(hf)
    blocks = [
        Block(local if has_window else attended, experts if sparse else mlp)
        for has_window, sparse in zip(windows, read_sparse_layers(hf, sizes["num_layers"]), strict=True)
    ]
    return ModelConfig(**sizes, norm=read_norm(hf), **arranged(blocks))


def _window(hf: ConfigFile) -> int:
    window = hf.integer("sliding_window", 4096)
    return window if hf.flag("use_sliding_window", False) else 0


def qwen2_moe_from(hf: ConfigFile) -> ModelConfig:
    first, window = hf.integer("max_window_layers", 28), _window(hf)
    windows = read_layer_types(hf, hf.integer("num_hidden_layers"), lambda i: window > 0 and i % 2 == 0 and i < first)
    experts = read_qwen_experts(hf, shared=True)
    return _read_qwen(hf, experts, windows, qkv_bias=hf.flag("qkv_bias", True))


def qwen3_moe_from(hf: ConfigFile) -> ModelConfig:
    hf.ignore("max_window_layers")
    bias, windows = hf.flag("attention_bias", False), [_window(hf) > 0] * hf.integer("num_hidden_layers")
    experts = read_qwen_experts(hf, shared=False)
    return _read_qwen(hf, experts, windows, qkv_bias=bias, out_bias=bias, qk_norm="shared")


def written_qwen_experts(config: ModelConfig) -> dict[str, Any]:
    """Entries about experts, and those of the dense layers, of which there may be none."""
    experts, blocks = first(config, MoEConfig), config.blocks()
    dense = [i for i, block in enumerate(blocks) if isinstance(block.channel, MLPConfig)]
    return written_sizes(config, blocks[dense[0]].channel if dense else replace(config.mlp, activation="silu")) | {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.top_k,
        "moe_intermediate_size": experts.d_ff,
        "norm_topk_prob": experts.normalize,
        "router_aux_loss_coef": experts.load_loss,
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
    }


def qwen2_moe_to(config: ModelConfig) -> dict[str, Any]:
    windows, experts = written_windows(config), first(config, MoEConfig)
    return (
        written_qwen_experts(config)
        | windows
        | {
            "use_sliding_window": windows["sliding_window"] is not None,
            "qkv_bias": first(config, AttentionConfig).qkv_bias,
            "shared_expert_intermediate_size": experts.shared_d_ff,
        }
    )


def qwen3_moe_to(config: ModelConfig) -> dict[str, Any]:
    attention = first(config, AttentionConfig)
    return written_qwen_experts(config) | {
        "use_sliding_window": attention.window > 0,
        "sliding_window": attention.window or None,
        "attention_bias": attention.qkv_bias,
    }


EXPERTS = (
    *expert_rules("mlp"),
    *mlp_rules("mlp.shared_expert.", "shared."),
    tensor("shared_gate", "mlp.shared_expert_gate.weight", "1 D -> D"),
)


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(config, channels={MoEConfig: EXPERTS})


FAMILIES = (
    Family("qwen2_moe", "Qwen2MoeForCausalLM", qwen2_moe_from, qwen2_moe_to, weights),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", qwen3_moe_from, qwen3_moe_to, weights),
)
