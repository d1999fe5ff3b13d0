"""StableLM 2 (Bellagente et al. 2024): LayerNorm, a quarter of each head turned, a norm for each head."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import (
    ATTENTION,
    llama_weights,
    read_attention,
    read_mlp,
    read_sizes,
    written_sizes,
)
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, NormConfig, ResidualConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    sizes = read_sizes(hf, context=4096)
    hf.only("head_dim", sizes["d_model"] // hf.integer("num_attention_heads"))
    parallel = hf.flag("use_parallel_residual", False)
    return ModelConfig(
        **sizes,
        attention=read_attention(
            hf,
            sizes["context_length"],
            rope=read_rope(hf, sizes["context_length"], fraction=0.25),
            qkv_bias=hf.flag("use_qkv_bias", False),
            qk_norm="per_head" if hf.flag("qk_layernorm", False) else "none",
        ),
        mlp=read_mlp(hf),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_eps", 1e-5)),
        residual=ResidualConfig(parallel=parallel, shared_norm=parallel),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention = first(config, AttentionConfig)
    entries = written_sizes(config) | {
        "layer_norm_eps": config.norm.epsilon,
        "use_qkv_bias": attention.qkv_bias,
        "qk_layernorm": attention.qk_norm == "per_head",
        "use_parallel_residual": config.residual.parallel,
        **rope_entries(attention.rope, config.context_length, with_fraction=True),
    }
    return {name: value for name, value in entries.items() if name != "rms_norm_eps"}


PER_HEAD = tuple(
    tensor(f"{ours}_norm.scale", f"self_attn.{theirs}_layernorm.norms.{{h}}.weight", "K -> h K")
    for ours, theirs in (("query", "q"), ("key", "k"))
)


def weights(config: ModelConfig) -> WeightMap:
    rules = (*(rule for rule in ATTENTION if not rule.ours.endswith("norm.scale")), *PER_HEAD)
    return llama_weights(config, mixers={AttentionConfig: rules})


FAMILIES = (Family("stablelm", "StableLmForCausalLM", config_from, config_to, weights),)
