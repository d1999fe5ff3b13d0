"""Qwen3-Next (2025): three layers of the gated delta rule to one of gated attention, experts in every layer."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    ATTENTION,
    llama_weights,
    mlp_rules,
    read_attention,
    read_mlp,
    read_sizes,
)
from jaxllm.interop.huggingface.families.qwen_moe import (
    EXPERTS,
    read_qwen_experts,
    read_sparse_layers,
    written_qwen_experts,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, GatedDeltaConfig, MLPConfig, MoEConfig, NormConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes, mlp = read_sizes(hf, context=32_768), read_mlp(hf)
    bias = hf.flag("attention_bias", False)
    attention = read_attention(
        hf,
        sizes["context_length"],
        head_dim=256,
        rope=read_rope(hf, sizes["context_length"], fraction=0.25),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="shared",
        gate=True,
    )
    delta = GatedDeltaConfig(
        num_heads=hf.integer("linear_num_value_heads", 32),
        num_key_heads=hf.integer("linear_num_key_heads", 16),
        key_dim=hf.integer("linear_key_head_dim", 128),
        value_dim=hf.integer("linear_value_head_dim", 128),
        d_conv=hf.integer("linear_conv_kernel_dim", 4),
    )
    moe = read_qwen_experts(hf, shared=True, normalize=True)
    layers, period = sizes["num_layers"], hf.integer("full_attention_interval", 4)
    default = ["full_attention" if (i + 1) % period == 0 else "linear_attention" for i in range(layers)]
    kinds = {"full_attention": attention, "linear_attention": delta}
    names = hf.list("layer_types", default)
    if len(names) != layers or not set(names) <= set(kinds):
        raise hf.error(f"layer_types must name one of {', '.join(kinds)} for each of {layers} layers, found {names}")
    blocks = [
        Block(kinds[name], moe if e else mlp) for name, e in zip(names, read_sparse_layers(hf, layers), strict=True)
    ]
    norm = NormConfig(epsilon=hf.number("rms_norm_eps", 1e-6), unit_offset=True)
    return ModelConfig(**{**sizes, "attention": attention, "mlp": mlp, **arranged(blocks)}, norm=norm)


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention, delta = first(config, AttentionConfig), first(config, GatedDeltaConfig)
    names = ["full_attention" if isinstance(b.mixer, AttentionConfig) else "linear_attention" for b in config.blocks()]
    return written_qwen_experts(config) | {
        "shared_expert_intermediate_size": first(config, MoEConfig).shared_d_ff,
        "attention_bias": attention.qkv_bias,
        "layer_types": names,
        "linear_num_value_heads": delta.num_heads,
        "linear_num_key_heads": delta.num_key_heads,
        "linear_key_head_dim": delta.key_dim,
        "linear_value_head_dim": delta.value_dim,
        "linear_conv_kernel_dim": delta.d_conv,
        **rope_entries(attention.rope, config.context_length, with_fraction=True),
    }


# Each query head lies beside its gate.
GATED_ATTENTION = (
    *(rule for rule in ATTENTION if not rule.ours.startswith("query") or rule.ours == "query_norm.scale"),
    *(
        rule
        for ours, half in (("query", (0, 1, 2)), ("gate", (1, 2, 2)))
        for rule in (
            tensor(ours, "self_attn.q_proj.weight", "(H p K) D -> D H K", p=half),
            tensor(f"{ours}_bias", "self_attn.q_proj.bias", "(H p K) -> H K", p=half),
        )
    ),
)


def delta_rules(config: GatedDeltaConfig) -> tuple[Tensor, ...]:
    """For each key head, its query, key, values and gates side by side, and likewise beta and decay of its values."""
    K, R = config.key_dim, config.num_heads // config.num_key_heads
    RV, G = R * config.value_dim, config.num_key_heads
    total, channels = 2 * K + 2 * RV, 2 * G * K + G * RV
    return (
        tensor("query", "linear_attn.in_proj_qkvz.weight", "(G K) D -> D G K", K=(0, K, total)),
        tensor("key", "linear_attn.in_proj_qkvz.weight", "(G K) D -> D G K", K=(K, 2 * K, total)),
        *(
            tensor(name, "linear_attn.in_proj_qkvz.weight", "(G p:(R V)) D -> D (G R) V", p=(start, start + RV, total))
            for name, start in (("value", 2 * K), ("gate", 2 * K + RV))
        ),
        *(
            tensor(name, "linear_attn.in_proj_ba.weight", "(G R) D -> D (G R)", R=(start, start + R, 2 * R))
            for name, start in (("beta", 0), ("decay", R))
        ),
        *(
            tensor(
                f"{name}_convolution.weight",
                "linear_attn.conv1d.weight",
                "(p:(G K)) 1 W -> W G K",
                p=(start, start + width, channels),
            )
            for name, start, width in (("query", 0, G * K), ("key", G * K, G * K), ("value", 2 * G * K, G * RV))
        ),
        tensor("decay_bias", "linear_attn.dt_bias"),
        tensor("log_decay", "linear_attn.A_log"),
        tensor("norm.scale", "linear_attn.norm.weight"),
        tensor("out", "linear_attn.out_proj.weight", "D (H V) -> H V D"),
    )


def weights(config: ModelConfig) -> WeightMap:
    delta = first(config, GatedDeltaConfig)
    mixers = {AttentionConfig: GATED_ATTENTION, GatedDeltaConfig: delta_rules(delta)}
    return llama_weights(config, mixers=mixers, channels={MLPConfig: mlp_rules(), MoEConfig: EXPERTS})


FAMILIES = (Family("qwen3_next", "Qwen3NextForCausalLM", config_from, config_to, weights),)
