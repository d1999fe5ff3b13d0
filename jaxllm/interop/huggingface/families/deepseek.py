"""What DeepSeek-V2 and V3 share: latent attention, and experts in all layers but the first."""

from __future__ import annotations

from dataclasses import replace
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
from jaxllm.interop.huggingface.layer_pattern import arranged, first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import Block, LatentAttentionConfig, MLPConfig, MoEConfig

# Of the published configs; they say how it was trained or repeat what is said elsewhere.
_SAID_ELSEWHERE = ("head_dim", "qk_head_dim", "num_key_value_heads", "ep_size")


def _read_latent(hf: ConfigFile, context_length: int) -> LatentAttentionConfig:
    published_rank = 0 if hf.mentions("q_lora_rank") else 1536
    return LatentAttentionConfig(
        num_heads=hf.integer("num_attention_heads"),
        q_rank=hf.integer("q_lora_rank", published_rank),
        kv_rank=hf.integer("kv_lora_rank", 512),
        nope_dim=hf.integer("qk_nope_head_dim", 128),
        rope_dim=hf.integer("qk_rope_head_dim", 64),
        value_dim=hf.integer("v_head_dim", 128),
        rope=replace(read_rope(hf, context_length), interleaved=hf.flag("rope_interleave", True)),
        bias=hf.flag("attention_bias", False),
    )


def read_deepseek(hf: ConfigFile, experts: MoEConfig, dense: int) -> ModelConfig:
    hf.only("moe_layer_freq", 1)
    hf.only("num_key_value_heads", hf.integer("num_attention_heads"))
    hf.ignore(*_SAID_ELSEWHERE)
    sizes = read_sizes(hf)
    latent, mlp = _read_latent(hf, sizes["context_length"]), read_mlp(hf)
    blocks = [Block(latent, mlp if i < dense else experts) for i in range(sizes["num_layers"])]
    return ModelConfig(**sizes, norm=read_norm(hf), **arranged(blocks))


def read_deepseek_experts(hf: ConfigFile, shared: int, **changes: Any) -> MoEConfig:
    width = hf.integer("moe_intermediate_size")
    return MoEConfig(
        num_experts=hf.integer("n_routed_experts"),
        top_k=hf.integer("num_experts_per_tok"),
        d_ff=width,
        activation=hf.activation(),
        shared_d_ff=hf.integer("n_shared_experts", shared) * width,
        **changes,
    )


def written_deepseek(config: ModelConfig) -> dict[str, Any]:
    blocks, experts = config.blocks(), first(config, MoEConfig)
    latent = first(config, LatentAttentionConfig)
    dense = next(i for i, block in enumerate(blocks) if isinstance(block.channel, MoEConfig))
    mlp = first(config, MLPConfig) if dense else replace(config.mlp, activation=experts.activation)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": config.tie_embeddings,
        "num_attention_heads": latent.num_heads,
        "num_key_value_heads": latent.num_heads,
        "q_lora_rank": latent.q_rank or None,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "attention_bias": latent.bias,
        "intermediate_size": mlp.d_ff,
        "hidden_act": written_activation(experts.activation),
        "rms_norm_eps": config.norm.epsilon,
        "first_k_dense_replace": dense,
        "moe_layer_freq": 1,
        "n_routed_experts": experts.num_experts,
        "n_shared_experts": experts.shared_d_ff // experts.d_ff,
        "num_experts_per_tok": experts.top_k,
        "moe_intermediate_size": experts.d_ff,
        "routed_scaling_factor": experts.scale,
        "n_group": experts.num_groups,
        "topk_group": experts.top_k_groups,
        "norm_topk_prob": experts.normalize,
        **rope_entries(latent.rope, config.context_length),
    }


def _latent_rules(config: LatentAttentionConfig) -> tuple[Tensor, ...]:
    C, N, R, V = config.kv_rank, config.nope_dim, config.rope_dim, config.value_dim
    latent, rope = (0, C, C + R), (C, C + R, C + R)
    query = "q_b_proj" if config.q_rank else "q_proj"
    return (
        tensor("query_down", "self_attn.q_a_proj.weight", "Q D -> D Q"),
        tensor("query_down_bias", "self_attn.q_a_proj.bias"),
        tensor("query_norm.scale", "self_attn.q_a_layernorm.weight"),
        tensor("query", f"self_attn.{query}.weight", "(H K) Q -> Q H K"),
        tensor("latent", "self_attn.kv_a_proj_with_mqa.weight", "c D -> D c", c=latent),
        tensor("latent_bias", "self_attn.kv_a_proj_with_mqa.bias", "c -> c", c=latent),
        tensor("rope_key", "self_attn.kv_a_proj_with_mqa.weight", "c D -> D c", c=rope),
        tensor("rope_key_bias", "self_attn.kv_a_proj_with_mqa.bias", "c -> c", c=rope),
        tensor("latent_norm.scale", "self_attn.kv_a_layernorm.weight"),
        tensor("key", "self_attn.kv_b_proj.weight", "(H p) C -> C H p", p=(0, N, N + V)),
        tensor("value", "self_attn.kv_b_proj.weight", "(H p) C -> C H p", p=(N, N + V, N + V)),
        tensor("out", "self_attn.o_proj.weight", "D (H V) -> H V D"),
        tensor("out_bias", "self_attn.o_proj.bias"),
    )


EXPERTS = (
    *expert_rules("mlp"),
    tensor("selection_bias", "mlp.gate.e_score_correction_bias"),
    *mlp_rules("mlp.shared_experts.", "shared."),
)


def deepseek_weights(config: ModelConfig) -> WeightMap:
    latent = next(block.mixer for block in config.blocks() if isinstance(block.mixer, LatentAttentionConfig))
    return llama_weights(config, mixers={LatentAttentionConfig: _latent_rules(latent)}, channels={MoEConfig: EXPERTS})
