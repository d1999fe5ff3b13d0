"""Jamba (Lieber et al. 2024): Mamba layers with attention every eighth, experts in every second, no positions."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.experts import expert_rules
from jaxllm.interop.huggingface.families.llama_like import (
    llama_weights,
    mlp_rules,
    read_mlp,
    read_norm,
    read_sizes,
    written_activation,
)
from jaxllm.interop.huggingface.families.mamba import mamba_rules, read_rank
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, MambaConfig, MLPConfig, MoEConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes, mlp = read_sizes(hf, context=262_144), read_mlp(hf)
    hf.only("mamba_inner_layernorms", True)
    hf.ignore("use_mamba_kernels", "use_mambapy", "use_associative_scan")
    hf.ignore("n_ctx", "num_logits_to_keep", "calc_logits_for_entire_prompt")
    heads = hf.integer("num_attention_heads")
    attention = AttentionConfig(num_heads=heads, num_kv_heads=hf.integer("num_key_value_heads", heads))
    mamba = MambaConfig(
        d_state=hf.integer("mamba_d_state", 16),
        d_conv=hf.integer("mamba_d_conv", 4),
        expand=hf.integer("mamba_expand", 2),
        dt_rank=read_rank(hf, "mamba_dt_rank"),
        conv_bias=hf.flag("mamba_conv_bias", True),
        proj_bias=hf.flag("mamba_proj_bias", False),
        inner_norm=True,
    )
    experts, top_k = hf.integer("num_experts", 16), hf.integer("num_experts_per_tok", 2)
    moe = MoEConfig(
        num_experts=experts,
        top_k=top_k,
        d_ff=mlp.d_ff,
        activation=mlp.activation,
        load_loss=hf.number("router_aux_loss_coef", 0.001),
    )
    has_attention = _every(hf, "attn_layer", 8, 4, sizes["num_layers"])
    has_experts = _every(hf, "expert_layer", 2, 1, sizes["num_layers"])
    blocks = [
        Block(attention if a else mamba, moe if e and experts > 1 else mlp)
        for a, e in zip(has_attention, has_experts, strict=True)
    ]
    return ModelConfig(**{**sizes, **arranged(blocks)}, norm=read_norm(hf), positions="none")


def _every(hf: ConfigFile, name: str, period: int, offset: int, layers: int) -> list[bool]:
    period, offset = hf.integer(f"{name}_period", period), hf.integer(f"{name}_offset", offset)
    return [i % period == offset for i in range(layers)]


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention, mlp, mamba = first(config, AttentionConfig), first(config, MLPConfig), first(config, MambaConfig)
    blocks = config.blocks()
    attention_layers = [i for i, block in enumerate(blocks) if isinstance(block.mixer, AttentionConfig)]
    expert_layers = [i for i, block in enumerate(blocks) if isinstance(block.channel, MoEConfig)]
    moe = blocks[expert_layers[0]].channel if expert_layers else MoEConfig(num_experts=1, top_k=1)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.kv_heads,
        "intermediate_size": mlp.d_ff,
        "hidden_act": written_activation(mlp.activation),
        "rms_norm_eps": config.norm.epsilon,
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "router_aux_loss_coef": moe.load_loss,
        **_written_every("attn_layer", attention_layers, config.num_layers),
        **_written_every("expert_layer", expert_layers or [0], config.num_layers),
        "mamba_d_state": mamba.d_state,
        "mamba_d_conv": mamba.d_conv,
        "mamba_expand": mamba.expand,
        "mamba_dt_rank": mamba.step_rank(config.d_model),
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.proj_bias,
    }


def _written_every(name: str, layers: list[int], count: int) -> dict[str, int]:
    period = layers[1] - layers[0] if len(layers) > 1 else max(count, layers[0] + 1)
    return {f"{name}_period": period, f"{name}_offset": layers[0]}


def weights(config: ModelConfig) -> WeightMap:
    return llama_weights(
        config,
        model=(
            tensor("embedding", "model.embed_tokens.weight"),
            tensor("norm.scale", "model.final_layernorm.weight"),
            tensor("head", "lm_head.weight"),
        ),
        block=(
            tensor("mixer_norm.scale", "input_layernorm.weight"),
            tensor("channel_norm.scale", "pre_ff_layernorm.weight"),
        ),
        mixers={MambaConfig: mamba_rules("mamba.")},
        channels={MLPConfig: mlp_rules("feed_forward."), MoEConfig: expert_rules("feed_forward", router="router")},
    )


FAMILIES = (Family("jamba", "JambaForCausalLM", config_from, config_to, weights),)
