"""LLaVA (Liu et al. 2023): an image encoder, a projector and a decoder, each of a family of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.interop.huggingface.equivalence_beyond import other_difference
from jaxllm.interop.huggingface.families import FAMILIES as DECODERS
from jaxllm.interop.huggingface.families.bert import linear
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.families.vision_towers import FAMILIES as TOWERS
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap
from jaxllm.models.config import ModelConfig, VisionConfig, VisionLanguageConfig

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
STRATEGIES = {"default": False, "full": True}


def config_from(hf: ConfigFile) -> VisionLanguageConfig:
    hf.ignore("image_seq_length", "tie_word_embeddings", "ignore_index", "projector_hidden_size", "vocab_size")
    vision = _part(hf, "vision_config", "clip_vision_model", {family.model_type: family for family in TOWERS})
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
    entries = hf.object(name)
    model_type = entries.get("model_type", default)
    if model_type not in families:
        raise hf.error(f"{name}.model_type={model_type!r} is not supported; supported: {', '.join(sorted(families))}")
    part = ConfigFile(TEXT_DEFAULTS.get(model_type, {}) | entries, f"{hf.source}: {name}")
    config = families[model_type].config_from(part)
    part.finish()
    return config


def config_to(config: VisionLanguageConfig) -> dict[str, Any]:
    return {
        "vision_config": _written(_tower_of(config.vision), config.vision),
        "text_config": _written(_decoder_of(config.text), config.text),
        "image_token_index": config.image_token,
        "image_seq_length": config.tokens_per_image,
        "vision_feature_layer": config.feature_layer,
        "vision_feature_select_strategy": ("full" if config.keep_class or not config.vision.class_token else "default"),
        "projector_hidden_act": written_activation(config.projector_activation),
        "multimodal_projector_bias": config.projector_bias,
        "tie_word_embeddings": config.text.tie_embeddings,
    }


def _written(family: Family, config: Any) -> dict[str, Any]:
    return {"model_type": family.model_type, "architectures": [family.architecture], **family.config_to(config)}


def _tower_of(config: VisionConfig) -> Family:
    return _first(TOWERS, config, other_difference)


def _decoder_of(config: ModelConfig) -> Family:
    return _first(DECODERS.values(), config, difference)


def _first(families: Iterable[Family], config: Any, difference: Callable[[Any, Any], str]) -> Family:
    """The first family that gives the config back from what it writes. Raises ValueError, saying why, if none does."""
    reasons = []
    for family in families:
        try:
            reason = difference(config, family.config_from(ConfigFile(_written(family, config))))
        except ValueError as error:
            reason = str(error)
        if not reason:
            return family
        reasons.append(f"{family.model_type}: {reason}")
    raise ValueError(f"no family can express its {type(config).__name__}: {'; '.join(reasons)}")


def weights(config: VisionLanguageConfig) -> WeightMap:
    vision = _inside(_tower_of(config.vision).weights(config.vision), "vision", "vision_tower.")
    text = _inside(_decoder_of(config.text).weights(config.text), "text", "language_model.")
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
