"""SmolLM 3 (2025): Llama whose every fourth layer has no positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama import llama_from, llama_to
from jaxllm.interop.huggingface.families.llama_like import llama_weights, read_layer_types, written_windows
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged
from jaxllm.models import ModelConfig
from jaxllm.models.config import Block


def config_from(hf: ConfigFile) -> ModelConfig:
    config, period = llama_from(hf), hf.integer("no_rope_layer_interval", 4)
    config = replace(config, tie_embeddings=hf.flag("tie_word_embeddings", True))
    turned = hf.list("no_rope_layers", [int((i + 1) % period != 0) for i in range(config.num_layers)])
    if len(turned) != config.num_layers or not all(one in (0, 1) for one in turned):
        raise hf.error(f"no_rope_layers must have 0 or 1 for each of {config.num_layers} layers, found {turned}")
    window = hf.integer("sliding_window", 0) if hf.flag("use_sliding_window", False) else 0
    hf.ignore("sliding_window", "max_window_layers")
    windows = read_layer_types(hf, config.num_layers, lambda i: window > 0 and not turned[i])
    if any(windows) and not window:
        raise hf.error("layer_types names sliding_attention, but use_sliding_window is not true")
    layers = [
        Block(replace(config.attention, no_positions=not has_rope, window=window if has_window else 0), config.mlp)
        for has_rope, has_window in zip(turned, windows, strict=True)
    ]
    return replace(config, **arranged(layers))


def config_to(config: ModelConfig) -> dict[str, Any]:
    windows = written_windows(config)
    turned = [int(not getattr(block.mixer, "no_positions", False)) for block in config.blocks()]
    return (
        llama_to(config)
        | windows
        | {
            "no_rope_layers": turned,
            "use_sliding_window": windows["sliding_window"] is not None,
        }
    )


FAMILIES = (Family("smollm3", "SmolLM3ForCausalLM", config_from, config_to, llama_weights),)
