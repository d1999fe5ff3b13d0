"""LLaVA (Liu et al. 2023): an image encoder, a projector and a decoder, each of a family of its own."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families import FAMILIES as DECODERS
from jaxllm.interop.huggingface.families import vision_towers, vit
from jaxllm.interop.huggingface.families.encoder_like import linear
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family, expressing, family_of
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap
from jaxllm.models.config import VisionLanguageConfig

# What a text_config need not say; the checkpoints of LLaVA 1.5 leave it out.
TEXT_DEFAULTS = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    }
}
TOWERS = {family.model_type: family for family in (*vision_towers.FAMILIES, *vit.FAMILIES)}
STRATEGIES = {"default": False, "full": True}


def config_from(hf: ConfigFile) -> VisionLanguageConfig:
    hf.ignore("image_seq_length", "tie_word_embeddings", "ignore_index", "projector_hidden_size", "vocab_size")
    vision = _part(hf, "vision_config", "clip_vision_model", TOWERS)
    text = _part(hf, "text_config", "llama", DECODERS)
    token = "image_token_index" if "image_token_index" in hf else "image_token_id"
    return VisionLanguageConfig(
        vision=vision,
        text=text,
        image_token=hf.integer(token, 32000),
        feature_layer=hf.integer("vision_feature_layer", -2),
        keep_class=hf.one_of("vision_feature_select_strategy", STRATEGIES, "default") and vision.class_token,
        projector_activation=hf.activation("projector_hidden_act", "gelu"),
        projector_bias=hf.flag("multimodal_projector_bias", True),
    )


def _part(hf: ConfigFile, name: str, default: str, families: dict[str, Family]) -> Any:
    entries = {"model_type": default} | hf.object(name)
    part = ConfigFile(TEXT_DEFAULTS.get(entries["model_type"], {}) | entries, f"{hf.source}: {name}")
    return family_of(part, families).read(part)


def config_to(config: VisionLanguageConfig) -> dict[str, Any]:
    return {
        "vision_config": expressing(config.vision, TOWERS.values())[1],
        "text_config": expressing(config.text, DECODERS.values())[1],
        "image_token_index": config.image_token,
        "image_seq_length": config.tokens_per_image,
        "vision_feature_layer": config.feature_layer,
        "vision_feature_select_strategy": ("full" if config.keep_class or not config.vision.class_token else "default"),
        "projector_hidden_act": written_activation(config.projector_activation),
        "multimodal_projector_bias": config.projector_bias,
        "tie_word_embeddings": config.text.tie_embeddings,
    }


def weights(config: VisionLanguageConfig) -> WeightMap:
    tower, _ = expressing(config.vision, TOWERS.values())
    decoder, _ = expressing(config.text, DECODERS.values())
    vision = _inside(tower.weights(config.vision), "vision", "vision_tower.")
    text = _inside(decoder.weights(config.text), "text", "language_model.")
    projector = (
        *linear("projector.first", "multi_modal_projector.linear_1"),
        *linear("projector.second", "multi_modal_projector.linear_2"),
    )
    return WeightMap(
        (*vision.model, *text.model, *projector),
        {**vision.stacks, **text.stacks},
        tied={**vision.tied, **text.tied},
        ignored=(*vision.ignored, *text.ignored),
    )


def _inside(part: WeightMap, ours: str, theirs: str) -> WeightMap:
    """The rules of a model that is a part of another."""
    return WeightMap(
        [Tensor(f"{ours}.{rule.ours}", theirs + rule.theirs, rule.pattern, rule.parts) for rule in part.model],
        {f"{ours}.{path}": _stack_inside(stack, theirs) for path, stack in part.stacks.items()},
        tied={theirs + copy: theirs + original for copy, original in part.tied.items()},
        ignored=[re.escape(theirs + part.base) + pattern for pattern in part.ignored],
    )


def _stack_inside(stack: Stack, theirs: str) -> Stack:
    return replace(stack, prefix=theirs + stack.prefix)


FAMILIES = (Family("llava", "LlavaForConditionalGeneration", config_from, config_to, weights),)
# The names of other versions of transformers, in memory and in files.
RENAMED = (
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
