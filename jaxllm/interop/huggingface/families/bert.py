"""BERT (Devlin et al. 2019): norms after each branch, learned positions, token types; with or without its heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import attention, linear, mlp, norm, read_heads, written_heads
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    EmbeddingConfig,
    EncoderConfig,
    HeadConfig,
    MLPConfig,
    NormConfig,
    ResidualConfig,
)


def config_from(hf: ConfigFile) -> EncoderConfig:
    return EncoderConfig(**read_encoder(hf, "Bert", position_offset=0))


def config_to(config: EncoderConfig) -> dict[str, Any]:
    return written_encoder(config, "Bert")


def read_encoder(hf: ConfigFile, name: str, *, position_offset: int) -> dict[str, Any]:
    """The fields of an EncoderConfig in BERT's words; `name` is what the family's classes begin with."""
    hf.only("is_decoder", False)
    hf.only("add_cross_attention", False)
    hf.only("position_embedding_type", "absolute")
    hf.ignore("gradient_checkpointing", "directionality", "pooler_fc_size", "pooler_num_attention_heads")
    hf.ignore("pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    heads = read_heads(hf, name)
    masked = heads.get("masked_head", False)
    trunk = ModelConfig(
        vocab_size=hf.integer("vocab_size", 30522),
        context_length=hf.integer("max_position_embeddings", 512) - position_offset,
        d_model=hf.integer("hidden_size", 768),
        num_layers=hf.integer("num_hidden_layers", 12),
        attention=AttentionConfig(
            num_heads=hf.integer("num_attention_heads", 12), causal=False, qkv_bias=True, out_bias=True
        ),
        mlp=MLPConfig(
            d_ff=hf.integer("intermediate_size", 3072), activation=hf.activation("hidden_act", "gelu"), bias=True
        ),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_eps", 1e-12)),
        residual=ResidualConfig(norm="post"),
        positions="learned",
        embedding=EmbeddingConfig(
            norm=True, token_types=hf.integer("type_vocab_size", 2), position_offset=position_offset
        ),
        head=HeadConfig(bias=masked),
        tie_embeddings=hf.flag("tie_word_embeddings", True) or not masked,
    )
    return {"trunk": trunk, "transform_activation": trunk.mlp.activation, **heads}


def written_encoder(config: EncoderConfig, name: str) -> dict[str, Any]:
    """The entries of a config.json in BERT's words."""
    trunk = config.trunk
    return written_heads(config, name) | {
        "vocab_size": trunk.vocab_size,
        "max_position_embeddings": trunk.context_length + trunk.embedding.position_offset,
        "hidden_size": trunk.d_model,
        "num_hidden_layers": trunk.num_layers,
        "num_attention_heads": trunk.attention.num_heads,
        "intermediate_size": trunk.mlp.d_ff,
        "hidden_act": written_activation(trunk.mlp.activation),
        "layer_norm_eps": trunk.norm.epsilon,
        "type_vocab_size": trunk.embedding.token_types,
        "tie_word_embeddings": trunk.tie_embeddings,
    }


ATTENTION = attention(*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense")


def encoder_weights(config: EncoderConfig, base: str, heads: Sequence[Tensor], **others: Any) -> WeightMap:
    """The rules under BERT's names; `others` are further fields of the map."""
    model = (
        tensor("trunk.embedding", f"{base}embeddings.word_embeddings.weight"),
        tensor("trunk.position", f"{base}embeddings.position_embeddings.weight"),
        tensor("trunk.token_type", f"{base}embeddings.token_type_embeddings.weight"),
        *norm("trunk.embedding_norm", f"{base}embeddings.LayerNorm"),
    )
    stack = Stack(
        config.trunk.segments(),
        f"{base}encoder.layer.{{i}}.",
        (
            *norm("mixer_post_norm", "attention.output.LayerNorm"),
            *norm("channel_post_norm", "output.LayerNorm"),
        ),
        {AttentionConfig: ATTENTION},
        {MLPConfig: mlp("intermediate.dense", "output.dense")},
    )
    ignored = [r"embeddings\.(position_ids|token_type_ids)", r"cls\.seq_relationship\.(weight|bias)"]
    if config.pooler == "none":
        ignored.append(r"pooler\.dense\.(weight|bias)")
    return WeightMap((*model, *heads), {"trunk.segments": stack}, base=base, ignored=ignored, **others)


def weights(config: EncoderConfig) -> WeightMap:
    tied = {"cls.predictions.decoder.bias": "cls.predictions.bias"}
    if config.trunk.tie_embeddings:
        tied["cls.predictions.decoder.weight"] = "bert.embeddings.word_embeddings.weight"
    heads = (
        tensor("trunk.head", "cls.predictions.decoder.weight"),
        tensor("trunk.head_bias", "cls.predictions.bias"),
        *linear("transform.dense", "cls.predictions.transform.dense"),
        *norm("transform.norm", "cls.predictions.transform.LayerNorm"),
        *linear("pooler", "bert.pooler.dense"),
        *linear("classifier", "classifier"),
    )
    return encoder_weights(config, "bert.", heads, tied=tied)


FAMILIES = (Family("bert", "BertModel", config_from, config_to, weights),)
# The names that norms have in the oldest checkpoints.
RENAMED = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
