"""The image encoders of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023)."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import attention, mlp, norm, packed
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig, NormConfig, VisionConfig


def read_tower(
    hf: ConfigFile, *, activation: str, epsilon: float, qkv_bias: bool = True, **fields: Any
) -> VisionConfig:
    size, patch = hf.integer("image_size", 224), hf.integer("patch_size", 16)
    trunk = ModelConfig(
        context_length=(size // patch) ** 2 + 1,
        d_model=hf.integer("hidden_size", 768),
        num_layers=hf.integer("num_hidden_layers", 12),
        attention=AttentionConfig(
            num_heads=hf.integer("num_attention_heads", 12), causal=False, qkv_bias=qkv_bias, out_bias=True
        ),
        mlp=MLPConfig(
            d_ff=hf.integer("intermediate_size", 3072), activation=hf.activation("hidden_act", activation), bias=True
        ),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_eps", epsilon)),
        positions="none",
    )
    return VisionConfig(
        trunk=trunk, image_size=size, patch_size=patch, channels=hf.integer("num_channels", 3), **fields
    )


def siglip_from(hf: ConfigFile) -> VisionConfig:
    pooler = "attention" if hf.flag("vision_use_head", True) else "none"
    return read_tower(hf, activation="gelu_pytorch_tanh", epsilon=1e-6, pooler=pooler)


def clip_from(hf: ConfigFile) -> VisionConfig:
    hf.ignore("projection_dim", "initializer_factor", "dropout", "vocab_size")
    return read_tower(
        hf,
        activation="quick_gelu",
        epsilon=1e-5,
        patch_bias=False,
        class_token=True,
        first_norm=True,
        final_norm="pooled",
        pooler="class",
    )


def written(config: VisionConfig) -> dict[str, Any]:
    """The entries that all image encoders have."""
    trunk = config.trunk
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "hidden_size": trunk.d_model,
        "num_hidden_layers": trunk.num_layers,
        "num_attention_heads": trunk.attention.num_heads,
        "intermediate_size": trunk.mlp.d_ff,
        "hidden_act": written_activation(trunk.mlp.activation),
        "layer_norm_eps": trunk.norm.epsilon,
    }


def siglip_to(config: VisionConfig) -> dict[str, Any]:
    return written(config) | {"vision_use_head": config.pooler == "attention"}


def patches(config: VisionConfig, theirs: str) -> tuple[Tensor, Tensor]:
    """Theirs is a convolution, of which each patch is one place."""
    side = (0, config.patch_size, config.patch_size)
    kernel = tensor("patch.weight", f"{theirs}.weight", "D C P Q -> (P Q C) D", P=side, Q=side)
    return kernel, tensor("patch.bias", f"{theirs}.bias")


def tower_weights(config: VisionConfig) -> WeightMap:
    """The rules under the names of SigLIP and CLIP."""
    fused = packed(
        [f"pooler.attention.{name}" for name in ("query", "key", "value")],
        "head.attention.in_proj_weight",
        "head.attention.in_proj_bias",
        "H K",
    )
    model = (
        *patches(config, "embeddings.patch_embedding"),
        tensor("class_token", "embeddings.class_embedding"),
        tensor("position", "embeddings.position_embedding.weight"),
        *norm("first_norm", "pre_layrnorm"),
        *norm("norm", "post_layernorm"),
        tensor("pooler.probe", "head.probe", "1 1 D -> D"),
        *fused,
        tensor("pooler.attention.out", "head.attention.out_proj.weight", "D (H K) -> H K D"),
        tensor("pooler.attention.out_bias", "head.attention.out_proj.bias"),
        *norm("pooler.norm", "head.layernorm"),
        *_under("pooler.mlp.", mlp("head.mlp.fc1", "head.mlp.fc2")),
    )
    stack = Stack(
        config.trunk.segments(),
        "encoder.layers.{i}.",
        (*norm("mixer_norm", "layer_norm1"), *norm("channel_norm", "layer_norm2")),
        {AttentionConfig: attention(*(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")))},
        {MLPConfig: mlp("mlp.fc1", "mlp.fc2")},
    )
    return WeightMap(model, {"segments": stack}, ignored=(r"embeddings\.position_ids",))


def _under(ours: str, rules: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(ours + rule.ours, rule.theirs, rule.pattern, rule.parts) for rule in rules)


FAMILIES = (
    Family("siglip_vision_model", "SiglipVisionModel", siglip_from, siglip_to, tower_weights),
    Family("clip_vision_model", "CLIPVisionModel", clip_from, written, tower_weights),
)
# Before transformers 5 a tower stood in a module of its own.
RENAMED = ((r"^vision_model\.", ""),)
