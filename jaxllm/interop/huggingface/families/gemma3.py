"""The text models of Gemma 3 (2025): five layers with windows to one without, two rotary bases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.gemma import (
    read_gemma,
    sandwich_weights,
    score_factor,
    written_caps,
    written_gemma,
)
from jaxllm.interop.huggingface.families.llama_like import read_layer_types, written_windows
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import arranged
from jaxllm.interop.huggingface.rope_entries import rope_of, scaling_entries
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, Block, HeadConfig, ResidualConfig, RopeConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    hf.ignore("hidden_act", "cache_implementation", "_sliding_window_pattern")
    rope, local_rope = _read_two_ropes(hf, hf.integer("max_position_embeddings", 131_072))
    config = read_gemma(
        hf, context=131_072, activation="hidden_activation", qk_norm="shared", rope=rope, **score_factor(hf)
    )
    attention, layers = config.attention, _read_layers(hf, config)
    local = replace(attention, window=hf.integer("sliding_window", 4096), rope=local_rope)
    return replace(
        config,
        residual=ResidualConfig(norm="sandwich"),
        head=HeadConfig(softcap=hf.number("final_logit_softcapping", 0)),
        **arranged([Block(local if has_window else attention, config.mlp) for has_window in layers]),
    )


def _read_two_ropes(hf: ConfigFile, context_length: int) -> tuple[RopeConfig, RopeConfig]:
    """Those of layers without and with a window; only the former are ever stretched."""
    nested = hf.object("rope_parameters")
    full, local = nested.get("full_attention") or {}, nested.get("sliding_attention") or {}
    full = full | hf.object("rope_scaling")
    return (
        rope_of(hf, full, context_length, theta=hf.number("rope_theta", 1e6)),
        rope_of(hf, local, context_length, theta=hf.number("rope_local_base_freq", 1e4)),
    )


def _read_layers(hf: ConfigFile, config: ModelConfig) -> list[bool]:
    period = hf.integer("sliding_window_pattern", 6)
    return read_layer_types(hf, config.num_layers, lambda i: bool((i + 1) % period))


def config_to(config: ModelConfig) -> dict[str, Any]:
    ropes = {mixer.window > 0: mixer.rope for mixer in _attentions(config)}
    local, full = ropes.get(True), ropes.get(False)
    entries = written_gemma(config) | written_caps(config) | written_windows(config)
    entries |= {"rope_theta": full.theta if full else 1e6, "rope_local_base_freq": local.theta if local else 1e4}
    entries.pop("rope_scaling", None)
    if full and full.scaling != "none":
        entries["rope_scaling"] = scaling_entries(full, config.context_length)
    return entries


def _attentions(config: ModelConfig) -> list[AttentionConfig]:
    return [block.mixer for block in config.blocks() if isinstance(block.mixer, AttentionConfig)]


FAMILIES = (Family("gemma3_text", "Gemma3ForCausalLM", config_from, config_to, sandwich_weights),)
