"""BERT (Devlin et al. 2019): norms after each branch, learned positions, token types; with or without its heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
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


def read_heads(hf: ConfigFile, name: str, *, pooler: str = "tanh", model_pooler: str = "tanh") -> dict[str, Any]:
    """What stands on the trunk, by the class that the directory was written from. `pooler` is that of a classifier,
    `model_pooler` that of the model without heads."""
    classes = hf.list("architectures", [f"{name}Model"])
    match str(classes[0]).removeprefix(name) if classes else "Model":
        case "Model":
            return {"pooler": model_pooler}
        case "ForMaskedLM" | "ForPreTraining":
            return {"masked_head": True}
        case "ForSequenceClassification":
            return {"pooler": pooler, "num_classes": len(hf.object("id2label")) or hf.integer("num_labels", 2)}
    supported = ", ".join(f"{name}{rest}" for rest in ("Model", "ForMaskedLM", "ForSequenceClassification"))
    raise hf.error(f"architectures={classes} is not supported; supported: {supported}")


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


def written_heads(config: EncoderConfig, name: str) -> dict[str, Any]:
    """`architectures`, and the labels of a classifier."""
    if config.num_classes:
        labels = {str(number): f"LABEL_{number}" for number in range(config.num_classes)}
        return {"architectures": [f"{name}ForSequenceClassification"], "id2label": labels}
    return {"architectures": [f"{name}{'ForMaskedLM' if config.masked_head else 'Model'}"]}


def linear(ours: str, theirs: str) -> tuple[Tensor, Tensor]:
    """A Dense."""
    return tensor(f"{ours}.weight", f"{theirs}.weight", "O I -> I O"), tensor(f"{ours}.bias", f"{theirs}.bias")


def norm(ours: str, theirs: str) -> tuple[Tensor, Tensor]:
    return tensor(f"{ours}.scale", f"{theirs}.weight"), tensor(f"{ours}.bias", f"{theirs}.bias")


def attention(query: str, key: str, value: str, out: str) -> tuple[Tensor, ...]:
    """Four products under these names."""
    inward = (("query", query), ("key", key), ("value", value))
    return (
        *(tensor(ours, f"{theirs}.weight", "(H K) D -> D H K") for ours, theirs in inward),
        *(tensor(f"{ours}_bias", f"{theirs}.bias", "(H K) -> H K") for ours, theirs in inward),
        tensor("out", f"{out}.weight", "D (H K) -> H K D"),
        tensor("out_bias", f"{out}.bias"),
    )


def mlp(up: str, down: str) -> tuple[Tensor, ...]:
    """Two products under these names."""
    return (
        tensor("up", f"{up}.weight", "O I -> I O"),
        tensor("up_bias", f"{up}.bias"),
        tensor("down", f"{down}.weight", "O I -> I O"),
        tensor("down_bias", f"{down}.bias"),
    )


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
