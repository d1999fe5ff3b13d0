"""Mamba-2 (Dao and Gu 2024): one projection for all that its mixer needs, one convolution over most of it."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.mamba import mixer_weights, read_model, written_model
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import Mamba2Config


def mamba2_from(hf: ConfigFile) -> ModelConfig:
    expand, width, head_dim = hf.integer("expand", 2), hf.integer("hidden_size"), hf.integer("head_dim", 64)
    hf.only("num_heads", expand * width // head_dim)
    hf.ignore("time_step_rank", "chunk_size")
    low, high = (as_number(limit) for limit in hf.list("time_step_limit", [0.0, float("inf")]))
    mixer = Mamba2Config(
        d_state=hf.integer("state_size", 128),
        d_conv=hf.integer("conv_kernel", 4),
        expand=expand,
        head_dim=head_dim,
        num_groups=hf.integer("n_groups", 8),
        conv_bias=hf.flag("use_conv_bias", True),
        proj_bias=hf.flag("use_bias", False),
        dt_min=low,
        dt_max=0.0 if high == float("inf") else high,
    )
    return read_model(hf, mixer, tied=False)


def as_number(value: Any) -> float:
    """A number, or transformers' way to write infinity in JSON."""
    return float(value["__float__"] if isinstance(value, dict) and "__float__" in value else value)


def mamba2_to(config: ModelConfig) -> dict[str, Any]:
    mixer = first(config, Mamba2Config)
    high = mixer.dt_max or {"__float__": "Infinity"}
    return written_model(config, mixer) | {
        "num_heads": mixer.num_heads(config.d_model),
        "head_dim": mixer.head_dim,
        "n_groups": mixer.num_groups,
        "time_step_limit": [mixer.dt_min, high],
    }


def mamba2_rules(model: ModelConfig, config: Mamba2Config) -> tuple[Tensor, ...]:
    """One projection gives gate, input, B, C and step; one convolution runs over input, B and C."""
    heads = config.num_heads(model.d_model)
    inner, groups = heads * config.head_dim, config.num_groups * config.d_state
    rules = [
        tensor("step_bias", "mixer.dt_bias"),
        tensor("log_decay", "mixer.A_log"),
        tensor("skip", "mixer.D"),
        tensor("norm.scale", "mixer.norm.weight", "(H P) -> H P"),
        tensor("out", "mixer.out_proj.weight", "D (H P) -> H P D"),
        tensor("out_bias", "mixer.out_proj.bias"),
    ]
    parts = {"gate": (inner, "H P"), "input": (inner, "H P"), "write": (groups, "G N"), "read": (groups, "G N")}
    for name, part, letters in _side_by_side(parts | {"step": (heads, "H")}):
        bias = "step_in_bias" if name == "step" else f"{name}_bias"
        rules += [
            tensor(name, "mixer.in_proj.weight", f"(p:({letters})) D -> D {letters}", p=part),
            tensor(bias, "mixer.in_proj.bias", f"(p:({letters})) -> {letters}", p=part),
        ]
    del parts["gate"]
    for name, part, letters in _side_by_side(parts):
        rules += [
            tensor(f"{name}_convolution.weight", "mixer.conv1d.weight", f"(p:({letters})) 1 W -> W {letters}", p=part),
            tensor(f"{name}_convolution.bias", "mixer.conv1d.bias", f"(p:({letters})) -> {letters}", p=part),
        ]
    return tuple(rules)


def _side_by_side(parts: dict[str, tuple[int, str]]):
    """Name, (start, stop, total) and axes of each of several parts of one axis."""
    start, total = 0, sum(width for width, _ in parts.values())
    for name, (width, letters) in parts.items():
        yield name, (start, start + width, total), letters
        start += width


def weights(config: ModelConfig) -> WeightMap:
    return mixer_weights(config, Mamba2Config, mamba2_rules(config, first(config, Mamba2Config)))


FAMILIES = (Family("mamba2", "Mamba2ForCausalLM", mamba2_from, mamba2_to, weights),)
