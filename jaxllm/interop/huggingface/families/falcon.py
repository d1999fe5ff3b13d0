"""Falcon (Almazrouei et al. 2023): parallel branches, few key/value heads, queries, keys and values in one matrix."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.gpt_neox import MLP
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig, NormConfig, ResidualConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    width, heads = hf.integer("hidden_size"), hf.integer("num_attention_heads")
    context, bias, alibi = hf.integer("max_position_embeddings", 2048), hf.flag("bias", False), hf.flag("alibi", False)
    grouped, multi_query = hf.flag("new_decoder_architecture", False), hf.flag("multi_query", True)
    parallel, norms = hf.flag("parallel_attn", True), hf.integer("num_ln_in_parallel_attn", 2 if grouped else 1)
    if norms not in (1, 2) or (norms == 2 and not grouped) or (grouped and not parallel):
        raise hf.error(
            f"num_ln_in_parallel_attn={norms} and parallel_attn={parallel} with new_decoder_architecture={grouped} are "
            "not supported; two norms or one need new_decoder_architecture=true, which needs parallel_attn=true"
        )
    given = hf.integer("num_kv_heads", heads)
    groups = given if grouped else 1 if multi_query else heads
    hf.ignore("head_dim", "rotary")
    return ModelConfig(
        vocab_size=hf.integer("vocab_size"),
        context_length=context,
        d_model=width,
        num_layers=hf.integer("num_hidden_layers"),
        attention=AttentionConfig(
            num_heads=heads,
            num_kv_heads=groups,
            qkv_bias=bias,
            out_bias=bias,
            rope=read_rope(hf, context),
            alibi_scaled=alibi,
        ),
        mlp=MLPConfig(
            d_ff=hf.integer("ffn_hidden_size", 4 * width), activation=hf.activation("activation", "gelu"), bias=bias
        ),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_epsilon", 1e-5)),
        residual=ResidualConfig(parallel=parallel, shared_norm=parallel and norms == 1),
        positions="alibi" if alibi else "rope",
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention, mlp, residual = first(config, AttentionConfig), first(config, MLPConfig), config.residual
    grouped = _is_grouped(config)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": attention.num_heads,
        "num_kv_heads": attention.kv_heads,
        "multi_query": attention.kv_heads == 1,
        "new_decoder_architecture": grouped,
        "parallel_attn": residual.parallel,
        "num_ln_in_parallel_attn": (1 if residual.shared_norm else 2) if grouped else None,
        "alibi": config.positions == "alibi",
        "bias": attention.qkv_bias,
        "ffn_hidden_size": mlp.d_ff,
        "activation": written_activation(mlp.activation),
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_entries(attention.rope, config.context_length),
    }


def _is_grouped(config: ModelConfig) -> bool:
    """Whether it is of the newer kind. Of models that both kinds can express, it is the older one."""
    attention, residual = first(config, AttentionConfig), config.residual
    return attention.kv_heads not in (1, attention.num_heads) or (residual.parallel and not residual.shared_norm)


def _attention(config: ModelConfig) -> tuple[Tensor, ...]:
    """Each group holds its queries, its key and its value."""
    attention = first(config, AttentionConfig)
    H, G = attention.num_heads, attention.kv_heads
    R, fused = H // G, "self_attention.query_key_value"
    rules = []
    for name, part in (("query", (0, R, R + 2)), ("key", (R, R + 1, R + 2)), ("value", (R + 1, R + 2, R + 2))):
        rules += [
            tensor(name, f"{fused}.weight", "(G r K) D -> D (G r) K", r=part),
            tensor(f"{name}_bias", f"{fused}.bias", "(G r K) -> (G r) K", r=part),
        ]
    return (
        *rules,
        tensor("out", "self_attention.dense.weight", "D (H K) -> H K D"),
        tensor("out_bias", "self_attention.dense.bias"),
    )


def weights(config: ModelConfig) -> WeightMap:
    two = _is_grouped(config) and not config.residual.shared_norm
    names = ("ln_attn", "ln_mlp") if two else ("input_layernorm", "post_attention_layernorm")
    norms = [
        tensor(f"{ours}.{part}", f"{theirs}.{name}")
        for ours, theirs in zip(("mixer_norm", "channel_norm"), names, strict=True)
        for part, name in (("scale", "weight"), ("bias", "bias"))
    ]
    stack = Stack(
        config.segments(), "transformer.h.{i}.", norms, {AttentionConfig: _attention(config)}, {MLPConfig: MLP}
    )
    return WeightMap(
        (
            tensor("embedding", "transformer.word_embeddings.weight"),
            tensor("norm.scale", "transformer.ln_f.weight"),
            tensor("norm.bias", "transformer.ln_f.bias"),
            tensor("head", "lm_head.weight"),
        ),
        {"segments": stack},
        base="transformer.",
        tied={"lm_head.weight": "transformer.word_embeddings.weight"} if config.tie_embeddings else {},
        ignored=(r"h\.\d+\.self_attention\.rotary_emb\.inv_freq",),
    )


FAMILIES = (Family("falcon", "FalconForCausalLM", config_from, config_to, weights),)
