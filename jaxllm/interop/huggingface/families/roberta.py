"""RoBERTa (Liu et al. 2019) and XLM-RoBERTa (Conneau et al. 2020): BERT whose positions count real tokens only, from
the row after that of padding."""

from __future__ import annotations

from functools import partial
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.bert import encoder_weights, read_encoder, written_encoder
from jaxllm.interop.huggingface.families.encoder_like import linear, norm
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models.config import EncoderConfig


def config_from(hf: ConfigFile, name: str) -> EncoderConfig:
    fields = read_encoder(hf, name, position_offset=hf.integer("pad_token_id", 1) + 1)
    # Its classes have gelu in the head, whatever the layers have.
    return EncoderConfig(**fields | {"transform_activation": "gelu"}, padding_positions=True)


def config_to(config: EncoderConfig, name: str) -> dict[str, Any]:
    return written_encoder(config, name) | {"pad_token_id": config.trunk.embedding.position_offset - 1}


def weights(config: EncoderConfig) -> WeightMap:
    tied = {"lm_head.decoder.bias": "lm_head.bias"}
    if config.trunk.tie_embeddings:
        tied["lm_head.decoder.weight"] = "roberta.embeddings.word_embeddings.weight"
    heads = (
        tensor("trunk.head", "lm_head.decoder.weight"),
        tensor("trunk.head_bias", "lm_head.bias"),
        *linear("transform.dense", "lm_head.dense"),
        *norm("transform.norm", "lm_head.layer_norm"),
        *linear("pooler", "classifier.dense" if config.num_classes else "roberta.pooler.dense"),
        *linear("classifier", "classifier.out_proj"),
    )
    return encoder_weights(config, "roberta.", heads, tied=tied)


FAMILIES = tuple(
    Family(model_type, f"{name}Model", partial(config_from, name=name), partial(config_to, name=name), weights)
    for model_type, name in (("roberta", "Roberta"), ("xlm-roberta", "XLMRoberta"))
)
