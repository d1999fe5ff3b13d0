"""DeepSeek-V3 (2024): experts by sigmoids with a bias that balances them, and modules that predict further tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.deepseek import (
    deepseek_weights,
    read_deepseek,
    read_deepseek_experts,
    written_deepseek,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import MultiTokenConfig, Segment


def config_from(hf: ConfigFile) -> ModelConfig:
    hf.only("scoring_func", "sigmoid")
    hf.only("topk_method", "noaux_tc")
    experts = read_deepseek_experts(
        hf,
        shared=1,
        router="sigmoid",
        normalize=hf.flag("norm_topk_prob", True),
        scale=hf.number("routed_scaling_factor", 2.5),
        num_groups=hf.integer("n_group", 8),
        top_k_groups=hf.integer("topk_group", 4),
        group_score="top2",
        balance_rate=0.0,
    )
    modules = hf.integer("num_mtp_layers" if "num_mtp_layers" in hf else "num_nextn_predict_layers", 1)
    config = read_deepseek(hf, experts, hf.integer("first_k_dense_replace", 3))
    return replace(config, multi_token=MultiTokenConfig(depth=modules) if modules else None)


def config_to(config: ModelConfig) -> dict[str, Any]:
    latent = config.blocks()[0].mixer
    return written_deepseek(config) | {
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "rope_interleave": latent.rope.interleaved,
        "num_nextn_predict_layers": 0 if config.multi_token is None else config.multi_token.depth,
    }


def weights(config: ModelConfig) -> WeightMap:
    """Module k stands among the layers, behind the last, with copies of the embedding and the head."""
    base = deepseek_weights(config)
    model, stacks, tied = list(base.model), dict(base.stacks), dict(base.tied)
    for k in range(config.multi_token.depth if config.multi_token else 0):
        number = config.num_layers + k
        ours, theirs = f"multi_token.{k}", f"model.layers.{number}"
        model += [
            tensor(f"{ours}.embedding_norm.scale", f"{theirs}.enorm.weight"),
            tensor(f"{ours}.hidden_norm.scale", f"{theirs}.hnorm.weight"),
            tensor(f"{ours}.projection", f"{theirs}.eh_proj.weight", "O I -> I O"),
            tensor(f"{ours}.norm.scale", f"{theirs}.shared_head.norm.weight"),
        ]
        segment = Segment((config.blocks()[-1],), 1, number)
        stacks[f"{ours}.blocks"] = replace(base.stacks["segments"], segments=(segment,))
        tied[f"{theirs}.embed_tokens.weight"] = "model.embed_tokens.weight"
        tied[f"{theirs}.shared_head.head.weight"] = "lm_head.weight"
    return replace(base, model=tuple(model), stacks=stacks, tied=tied)


FAMILIES = (Family("deepseek_v3", "DeepseekV3ForCausalLM", config_from, config_to, weights),)
