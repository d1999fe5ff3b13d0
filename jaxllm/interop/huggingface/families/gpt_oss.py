"""GPT-OSS (OpenAI 2025): sinks, windows in every second layer, experts with biases and a clamped SwiGLU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.experts import read_experts
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    read_attention,
    read_layer_types,
    read_norm,
    read_sizes,
    written_sizes,
    written_windows,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.weight_map import Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, MLPConfig, MoEConfig, RopeConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    hf.only("swiglu_alpha", 1.702)
    hf.only("swiglu_limit", 7.0)
    hf.only("hidden_act", "silu")
    hf.ignore("initial_context_length", "experts_per_token")
    sizes, bias = read_sizes(hf, context=131_072), hf.flag("attention_bias", True)
    scaled = "rope_parameters" in hf or "rope_scaling" in hf
    published = RopeConfig(
        theta=hf.number("rope_theta", 150_000.0), scaling="yarn", factor=32.0, original_context=4096, truncate=False
    )
    attention = read_attention(
        hf,
        sizes["context_length"],
        theta=150_000.0,
        head_dim=64,
        rope=None if scaled else published,
        qkv_bias=bias,
        out_bias=bias,
        sinks=True,
    )
    experts = MoEConfig(
        num_experts=read_experts(hf),
        top_k=hf.integer("num_experts_per_tok", 4),
        d_ff=hf.integer("intermediate_size"),
        activation="clamped_swiglu",
        bias=True,
        router="softmax_of_top_k",
        router_bias=True,
        load_loss=hf.number("router_aux_loss_coef", 0),
    )
    windows = read_layer_types(hf, sizes["num_layers"], lambda i: i % 2 == 0)
    local = replace(attention, window=hf.integer("sliding_window", 128))
    blocks = [Block(local if has_window else attention, experts) for has_window in windows]
    return ModelConfig(**sizes, norm=read_norm(hf, epsilon=1e-5), **arranged(blocks))


def config_to(config: ModelConfig) -> dict[str, Any]:
    experts = first(config, MoEConfig)
    # Without an entry, it would be stretched.
    unscaled = {"rope_scaling": {"rope_type": "default"}}
    return (
        unscaled
        | written_sizes(config, MLPConfig(d_ff=experts.d_ff, activation="silu"))
        | written_windows(config)
        | {
            "num_local_experts": experts.num_experts,
            "num_experts_per_tok": experts.top_k,
            "router_aux_loss_coef": experts.load_loss,
            "attention_bias": first(config, AttentionConfig).qkv_bias,
        }
    )


def _expert_rules() -> tuple[Tensor, ...]:
    """All experts lie in one tensor, gates and the other side interleaved."""
    sides = [
        rule
        for place, name in enumerate(("gate", "up"))
        for rule in (
            tensor(f"experts.{name}", "mlp.experts.gate_up_proj", "E D (F p) -> E D F", p=(place, place + 1, 2)),
            tensor(f"experts.{name}_bias", "mlp.experts.gate_up_proj_bias", "E (F p) -> E F", p=(place, place + 1, 2)),
        )
    ]
    return (
        tensor("router", "mlp.router.weight", "E D -> D E"),
        tensor("router_bias", "mlp.router.bias"),
        *sides,
        tensor("experts.down", "mlp.experts.down_proj"),
        tensor("experts.down_bias", "mlp.experts.down_proj_bias"),
    )


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(config, channels={MoEConfig: _expert_rules()})


FAMILIES = (Family("gpt_oss", "GptOssForCausalLM", config_from, config_to, weights),)
