"""ViT (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import attention, linear, mlp, norm
from jaxllm.interop.huggingface.families.vision_towers import patches, read_tower, written
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models.config import AttentionConfig, MLPConfig, VisionConfig


def vit_from(hf: ConfigFile) -> VisionConfig:
    hf.only("pooler_act", "tanh")
    hf.only("pooler_output_size", hf.integer("hidden_size", 768))
    hf.ignore("encoder_stride")
    hf.only("architectures", ["ViTModel"])
    bias = hf.flag("qkv_bias", True)
    return read_tower(hf, activation="gelu", epsilon=1e-12, qkv_bias=bias, class_token=True, pooler="tanh")


def vit_to(config: VisionConfig) -> dict[str, Any]:
    entries = written(config) | {"qkv_bias": config.trunk.attention.qkv_bias}
    return entries | {"pooler_act": "tanh", "pooler_output_size": config.trunk.d_model}


def vit_weights(config: VisionConfig) -> WeightMap:
    model = (
        *patches(config, "embeddings.patch_embeddings.projection"),
        tensor("class_token", "embeddings.cls_token", "1 1 D -> D"),
        tensor("position", "embeddings.position_embeddings", "1 P D -> P D"),
        *norm("norm", "layernorm"),
        *linear("pooler", "pooler.dense"),
    )
    inward = (f"attention.attention.{part}" for part in ("query", "key", "value"))
    stack = Stack(
        config.trunk.segments(),
        "encoder.layer.{i}.",
        (*norm("mixer_norm", "layernorm_before"), *norm("channel_norm", "layernorm_after")),
        {AttentionConfig: attention(*inward, "attention.output.dense")},
        {MLPConfig: mlp("intermediate.dense", "output.dense")},
    )
    return WeightMap(model, {"segments": stack})


FAMILIES = (Family("vit", "ViTModel", vit_from, vit_to, vit_weights),)
