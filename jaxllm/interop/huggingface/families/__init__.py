"""The families of models, each in a file: what its config.json says, and which tensor is which parameter."""

from __future__ import annotations

from jaxllm.interop.huggingface.families import (
    deepseek_v2,
    deepseek_v3,
    diffllama,
    falcon,
    gemma,
    gemma3,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    jamba,
    llama,
    mamba,
    mamba2,
    mixtral,
    olmo2,
    phi3,
    qwen,
    qwen3_next,
    qwen_moe,
    rwkv,
    smollm3,
    stablelm,
)
from jaxllm.interop.huggingface.family import Family

# In the order in which a model to be written is offered to them.
MODULES = (
    gpt2,
    llama,
    qwen,
    gemma,
    gemma3,
    gpt_neox,
    phi3,
    olmo2,
    stablelm,
    falcon,
    granite,
    smollm3,
    mixtral,
    qwen_moe,
    gpt_oss,
    deepseek_v2,
    deepseek_v3,
    qwen3_next,
    mamba,
    mamba2,
    jamba,
    rwkv,
    diffllama,
)
FAMILIES: dict[str, Family] = {family.model_type: family for module in MODULES for family in module.FAMILIES}
