"""Mamba (Gu and Dao 2023): one mixer a layer, and nothing else. Mamba-2 shares most of its names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import Block, Mamba2Config, MambaConfig, NormConfig

CONTEXT = 2048  # what both were trained with; config.json says nothing, and nothing in the model depends on it


def read_model(hf: ConfigFile, mixer: MambaConfig | Mamba2Config, *, tied: bool) -> ModelConfig:
    hf.only("hidden_act", "silu")
    hf.ignore("residual_in_fp32", "time_step_floor", "time_step_min", "time_step_max", "time_step_init_scheme")
    hf.ignore("rescale_prenorm_residual", "use_mambapy", "use_associative_scan")
    return ModelConfig(
        vocab_size=hf.integer("vocab_size"),
        context_length=hf.integer("max_position_embeddings", CONTEXT),
        d_model=hf.integer("hidden_size"),
        num_layers=hf.integer("num_hidden_layers"),
        pattern=(Block(mixer, "none"),),
        norm=NormConfig(epsilon=hf.number("layer_norm_epsilon", 1e-5)),
        positions="none",
        tie_embeddings=hf.flag("tie_word_embeddings", tied),
    )


def written_model(config: ModelConfig, mixer: MambaConfig | Mamba2Config) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": mixer.expand,
        "use_bias": mixer.proj_bias,
        "use_conv_bias": mixer.conv_bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
    }


def mamba_from(hf: ConfigFile) -> ModelConfig:
    expand, width = hf.integer("expand", 2), hf.integer("hidden_size")
    hf.only("intermediate_size", expand * width)
    hf.only("time_step_scale", 1.0)
    mixer = MambaConfig(
        d_state=hf.integer("state_size", 16),
        d_conv=hf.integer("conv_kernel", 4),
        expand=expand,
        dt_rank=read_rank(hf, "time_step_rank"),
        conv_bias=hf.flag("use_conv_bias", True),
        proj_bias=hf.flag("use_bias", False),
    )
    return read_model(hf, mixer, tied=True)


def read_rank(hf: ConfigFile, name: str) -> int:
    """The width of the step's projection, 0 for "auto"."""
    if hf.is_text(name):
        hf.only(name, "auto")
        return 0
    return hf.integer(name, 0)


def mamba_to(config: ModelConfig) -> dict[str, Any]:
    mixer = first(config, MambaConfig)
    return written_model(config, mixer) | {
        "intermediate_size": mixer.expand * config.d_model,
        "time_step_rank": mixer.step_rank(config.d_model),
    }


def mamba_rules(prefix: str) -> tuple[Tensor, ...]:
    """Mamba's mixer under these names."""
    halves = {"input": (0, 1, 2), "gate": (1, 2, 2)}
    return (
        *(tensor(name, f"{prefix}in_proj.weight", "(p I) D -> D I", p=half) for name, half in halves.items()),
        *(tensor(f"{name}_bias", f"{prefix}in_proj.bias", "(p I) -> I", p=half) for name, half in halves.items()),
        tensor("convolution.weight", f"{prefix}conv1d.weight", "I 1 W -> W I"),
        tensor("convolution.bias", f"{prefix}conv1d.bias"),
        tensor("select", f"{prefix}x_proj.weight", "O I -> I O"),
        tensor("step", f"{prefix}dt_proj.weight", "I R -> R I"),
        tensor("step_bias", f"{prefix}dt_proj.bias"),
        tensor("log_decay", f"{prefix}A_log"),
        tensor("skip", f"{prefix}D"),
        tensor("out", f"{prefix}out_proj.weight", "D I -> I D"),
        tensor("out_bias", f"{prefix}out_proj.bias"),
        tensor("step_norm.scale", f"{prefix}dt_layernorm.weight"),
        tensor("write_norm.scale", f"{prefix}b_layernorm.weight"),
        tensor("read_norm.scale", f"{prefix}c_layernorm.weight"),
    )


def mixer_weights(config: ModelConfig, kind: type, rules: Sequence[Tensor]) -> WeightMap:
    """A model of this mixer alone, under the names of both."""
    model = (
        tensor("embedding", "backbone.embeddings.weight"),
        tensor("norm.scale", "backbone.norm_f.weight"),
        tensor("head", "lm_head.weight"),
    )
    block = (tensor("mixer_norm.scale", "norm.weight"),)
    return WeightMap(
        model,
        {"segments": Stack(config.segments(), "backbone.layers.{i}.", block, {kind: rules}, {})},
        base="backbone.",
        tied={"lm_head.weight": "backbone.embeddings.weight"} if config.tie_embeddings else {},
    )


def weights(config: ModelConfig) -> WeightMap:
    return mixer_weights(config, MambaConfig, mamba_rules("mixer."))


FAMILIES = (Family("mamba", "MambaForCausalLM", mamba_from, mamba_to, weights),)
