"""ModernBERT (Warner et al. 2024): norms before each branch but the first, rotary positions, local
and global layers."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import linear, norm, packed, read_heads, written_heads
from jaxllm.interop.huggingface.families.llama_like import read_layer_types, written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first_alone
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    Block,
    EmbeddingConfig,
    EncoderConfig,
    HeadConfig,
    MLPConfig,
    NormConfig,
    RopeConfig,
)

THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def config_from(hf: ConfigFile) -> EncoderConfig:
    hf.only("position_embedding_type", "absolute", "sans_pos")
    hf.ignore("initializer_cutoff_factor", "mlp_dropout", "sparse_pred_ignore_index", "sparse_prediction")
    hf.ignore("cls_token_id", "deterministic_flash_attn", "reference_compile", "repad_logits_with_grad")
    heads = read_heads(hf, "ModernBert", pooler="transform", model_pooler="none")
    layers, bias = hf.integer("num_hidden_layers", 22), hf.flag("attention_bias", False)
    every = hf.integer("global_attn_every_n_layers", 3)
    local = read_layer_types(hf, layers, lambda i: i % every != 0)
    window, thetas, count = hf.integer("local_attention", 128), _read_thetas(hf), hf.integer("num_attention_heads", 12)

    def attention(is_local: bool) -> AttentionConfig:
        theta = thetas["sliding_attention" if is_local else "full_attention"]
        return AttentionConfig(
            num_heads=count,
            causal=False,
            qkv_bias=bias,
            out_bias=bias,
            window=window if is_local else 0,
            rope=RopeConfig(theta=theta),
        )

    mlp = MLPConfig(
        d_ff=hf.integer("intermediate_size", 1152),
        activation=hf.activation("hidden_activation", "gelu"),
        gated=True,
        bias=hf.flag("mlp_bias", False),
    )
    trunk = ModelConfig(
        vocab_size=hf.integer("vocab_size", 50368),
        context_length=hf.integer("max_position_embeddings", 8192),
        d_model=hf.integer("hidden_size", 768),
        num_layers=layers,
        **first_alone([Block(attention(is_local), mlp) for is_local in local]),
        norm=NormConfig(kind="layernorm", bias=hf.flag("norm_bias", False), epsilon=hf.number("norm_eps", 1e-5)),
        embedding=EmbeddingConfig(norm=True),
        head=HeadConfig(bias=hf.flag("decoder_bias", True) and heads.get("masked_head", False)),
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )
    return EncoderConfig(
        trunk=trunk,
        first_norm=False,
        transform_activation=hf.activation("classifier_activation", "gelu"),
        transform_bias=hf.flag("classifier_bias", False),
        pooling=hf.one_of("classifier_pooling", {"cls": "first", "mean": "mean"}, "cls"),
        **heads,
    )


def _read_thetas(hf: ConfigFile) -> dict[str, float]:
    """By the kind of layer; in the spelling of transformers 5 or 4."""
    thetas = {kind: hf.number(name, default) for kind, (name, default) in THETAS.items()}
    for kind, entries in hf.object("rope_parameters").items():
        if kind not in thetas or entries.get("rope_type", "default") != "default":
            raise hf.error(f"rope_parameters.{kind}={entries} is not supported; supported: the type default")
        thetas[kind] = float(entries.get("rope_theta", thetas[kind]))
    return thetas


def config_to(config: EncoderConfig) -> dict[str, Any]:
    trunk, blocks = config.trunk, config.trunk.blocks()
    windows = {block.mixer.window for block in blocks if block.mixer.window}
    if len(windows) > 1:
        raise ValueError(f"local layers have windows of several sizes: {sorted(windows)}")
    kinds = ["sliding_attention" if block.mixer.window else "full_attention" for block in blocks]
    thetas = {THETAS[kind][0]: block.mixer.rope.theta for kind, block in zip(kinds, blocks, strict=True)}
    mixer, mlp = blocks[0].mixer, trunk.mlp
    return (
        written_heads(config, "ModernBert")
        | thetas
        | {
            "vocab_size": trunk.vocab_size,
            "max_position_embeddings": trunk.context_length,
            "hidden_size": trunk.d_model,
            "num_hidden_layers": trunk.num_layers,
            "num_attention_heads": mixer.num_heads,
            "attention_bias": mixer.qkv_bias,
            "intermediate_size": mlp.d_ff,
            "hidden_activation": written_activation(mlp.activation),
            "mlp_bias": mlp.bias,
            "norm_bias": trunk.norm.bias,
            "norm_eps": trunk.norm.epsilon,
            "decoder_bias": trunk.head.bias,
            "tie_word_embeddings": trunk.tie_embeddings,
            "local_attention": windows.pop() if windows else 128,
            "layer_types": kinds,
            "classifier_activation": written_activation(config.transform_activation),
            "classifier_bias": config.transform_bias,
            "classifier_pooling": "cls" if config.pooling == "first" else "mean",
        }
    )


def weights(config: EncoderConfig) -> WeightMap:
    attention = (
        *packed(("query", "key", "value"), "attn.Wqkv.weight", "attn.Wqkv.bias", "H K"),
        tensor("out", "attn.Wo.weight", "D (H K) -> H K D"),
        tensor("out_bias", "attn.Wo.bias"),
    )
    mlp = (
        *packed(("gate", "up"), "mlp.Wi.weight", "mlp.Wi.bias", "F"),
        tensor("down", "mlp.Wo.weight", "O I -> I O"),
        tensor("down_bias", "mlp.Wo.bias"),
    )
    model = (
        tensor("trunk.embedding", "model.embeddings.tok_embeddings.weight"),
        *norm("trunk.embedding_norm", "model.embeddings.norm"),
        *norm("trunk.norm", "model.final_norm"),
        tensor("trunk.head", "decoder.weight"),
        tensor("trunk.head_bias", "decoder.bias"),
        *linear("transform.dense", "head.dense"),
        *norm("transform.norm", "head.norm"),
        *linear("classifier", "classifier"),
    )
    norms = (*norm("mixer_norm", "attn_norm"), *norm("channel_norm", "mlp_norm"))
    stack = Stack(config.trunk.segments(), "model.layers.{i}.", norms, {AttentionConfig: attention}, {MLPConfig: mlp})
    tied = {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if config.trunk.tie_embeddings else {}
    return WeightMap(model, {"trunk.segments": stack}, base="model.", tied=tied)


FAMILIES = (Family("modernbert", "ModernBertModel", config_from, config_to, weights),)
