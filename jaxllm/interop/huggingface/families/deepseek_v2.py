"""DeepSeek-V2 (2024): experts by softmax, chosen among the best groups."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.deepseek import (
    deepseek_weights,
    read_deepseek,
    read_deepseek_experts,
    written_deepseek,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.models import ModelConfig
from jaxllm.models.config import MoEConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    hf.only("norm_topk_prob", False)
    hf.only("scoring_func", "softmax")
    hf.only("mlp_bias", False)
    limited = hf.one_of("topk_method", {"greedy": False, "group_limited_greedy": True}, "greedy")
    groups, chosen = hf.integer("n_group", 1), hf.integer("topk_group", 1)
    experts = read_deepseek_experts(
        hf,
        shared=2,
        scale=hf.number("routed_scaling_factor", 1.0),
        num_groups=groups if limited else 1,
        top_k_groups=chosen if limited else 1,
        group_score="max",
        load_loss=hf.number("aux_loss_alpha", 0.001),
    )
    return read_deepseek(hf, experts, hf.integer("first_k_dense_replace", 0))


def config_to(config: ModelConfig) -> dict[str, Any]:
    limited = first(config, MoEConfig).num_groups > 1
    return written_deepseek(config) | {
        "topk_method": "group_limited_greedy" if limited else "greedy",
        "scoring_func": "softmax",
        "aux_loss_alpha": first(config, MoEConfig).load_loss,
    }


FAMILIES = (Family("deepseek_v2", "DeepseekV2ForCausalLM", config_from, config_to, deepseek_weights),)
