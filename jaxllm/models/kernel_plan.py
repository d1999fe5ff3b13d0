"""Which kernel computes each layer of a model, said before anything is traced."""

from __future__ import annotations

from collections import Counter

from jaxllm.kernels.choice import AttentionCase, Choice, choose_attention, choose_experts, choose_scan
from jaxllm.kernels.visibility import Reach
from jaxllm.models.config import (
    AttentionConfig,
    DifferentialAttentionConfig,
    LatentAttentionConfig,
    Mamba2Config,
    ModelConfig,
    MoEConfig,
)


def kernel_plan(model: ModelConfig) -> list[str]:
    """A line for each kind of layer that has a choice of kernels: how many there are, the kernel, and why this one.

    It goes by the layout in use, as the layers do. Raises ValueError where a layer can't be computed as configured.
    """
    lines: Counter[str] = Counter()
    for block in model.blocks():
        for config in (block.mixer, block.channel):
            choice = layer_kernel(model, config)
            if choice is not None:
                lines[f"{config.kind}: {choice.kernel} ({choice.reason})"] += 1
    return [f"{count} x {line}" for line, count in lines.items()]


def layer_kernel(model: ModelConfig, config: object) -> Choice | None:
    """The kernel of one mixer over whole rows; None where there is one implementation."""
    case = attention_case(model, config)
    if case is not None:
        return choose_attention(model.kernels.attention, case)
    if isinstance(config, Mamba2Config):
        return choose_scan(model.kernels.scan)
    if isinstance(config, MoEConfig) and config.dispatch == "dropless" and config.router != "expert_choice":
        return choose_experts(model.kernels.experts)
    return None


def attention_case(model: ModelConfig, config: object) -> AttentionCase | None:
    """What a layer of softmax attention asks of a kernel; None for other layers."""
    match config:
        case AttentionConfig():
            width = values = model.head_width(config)
            reach = Reach(config.causal, config.window, config.chunk)
            scores = {
                "softcap": config.softcap,
                "sinks": config.sinks,
                "bias": model.positions == "alibi" and not config.no_positions,
            }
        case LatentAttentionConfig():
            width, values, reach, scores = config.nope_dim + config.rope_dim, config.value_dim, Reach(), {}
        case DifferentialAttentionConfig():
            width, reach, scores = model.head_width(config), Reach(window=config.window), {}
            values = 2 * width if config.version == 1 else width
        case _:
            return None
    return AttentionCase(model.compute_dtype, width, values, reach, **scores)
