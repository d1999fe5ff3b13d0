"""Small models of transformers with random weights and odd sizes; needs the packages of requirements/parity.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

BASE = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [2.0, 3.0, 5.0],
}


class Case(NamedTuple):
    """A model of transformers."""

    name: str
    model_type: str
    settings: dict[str, Any]
    attention: str = "eager"
    """Of its implementations, the one that computes what the family's paper says."""


def case(name: str, model_type: str, attention: str = "eager", without: tuple[str, ...] = (), **settings: Any) -> Case:
    chosen = {key: value for key, value in {**BASE, **settings}.items() if key not in without}
    return Case(name, model_type, chosen, attention)


def gpt2(name: str, **settings: Any) -> Case:
    sizes = {"vocab_size": 37, "n_positions": 96, "n_embd": 24, "n_layer": 3, "n_head": 3}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return Case(name, "gpt2", {**sizes, **tokens, **settings})


ALL_HEADS = ("num_key_value_heads",)
FALCON = ("num_key_value_heads", "intermediate_size")
GEMMA = {"head_dim": 10, "attention_bias": True}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0}
WINDOWS = {"sliding_window": 7, "query_pre_attn_scalar": 20}
TURNED = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
GROUPED = {"num_kv_heads": 2, "new_decoder_architecture": True}
FACTORS = {"attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.5}
DENSE = [
    gpt2("gpt2"),
    gpt2("gpt2-untied", tie_word_embeddings=False, n_inner=50, activation_function="relu"),
    case("llama", "llama"),
    case("llama-biases", "llama", head_dim=10, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    case("llama-3.1", "llama", rope_parameters=LLAMA3),
    case("llama-linear", "llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}),
    case("llama-yarn", "llama", rope_parameters=YARN, head_dim=8),
    case("mistral", "mistral", sliding_window=7, head_dim=6),
    case("qwen2", "qwen2"),
    case("qwen2-windows", "qwen2", use_sliding_window=True, sliding_window=7, max_window_layers=1),
    case("qwen3", "qwen3", head_dim=10),
    case("qwen3-biases", "qwen3", head_dim=8, attention_bias=True, tie_word_embeddings=True),
    case("gemma", "gemma", **GEMMA),
    case("gemma2", "gemma2", **GEMMA, **WINDOWS, num_hidden_layers=4, **CAPS),
    case("gemma3", "gemma3_text", **GEMMA, **WINDOWS, num_hidden_layers=4, sliding_window_pattern=2),
    case("gpt_neox", "gpt_neox", without=ALL_HEADS, num_attention_heads=3),
    case(
        "gpt_neox-sequential",
        "gpt_neox",
        without=ALL_HEADS,
        num_attention_heads=2,
        use_parallel_residual=False,
        attention_bias=False,
        rope_parameters=TURNED,
    ),
    case("phi3", "phi3", sliding_window=9),
    case(
        "phi3-longrope",
        "phi3",
        num_attention_heads=4,
        original_max_position_embeddings=48,
        rope_parameters=LONGROPE,
    ),
    case("olmo2", "olmo2"),
    case("stablelm", "stablelm", num_attention_heads=3, num_key_value_heads=3),
    case("stablelm-2", "stablelm", num_attention_heads=3, num_key_value_heads=1, use_qkv_bias=True, qk_layernorm=True),
    case("stablelm-parallel", "stablelm", num_attention_heads=3, num_key_value_heads=3, use_parallel_residual=True),
    case("falcon-7b", "falcon", "sdpa", FALCON),
    case("falcon-40b", "falcon", "sdpa", FALCON, **GROUPED, bias=True, tie_word_embeddings=False),
    case("falcon-11b", "falcon", "sdpa", FALCON, **GROUPED, num_ln_in_parallel_attn=1),
    # The eager implementation adds the linear biases twice.
    case("falcon-rw", "falcon", "sdpa", FALCON, alibi=True, parallel_attn=False, multi_query=False, bias=True),
    case("granite", "granite", **FACTORS),
    case("smollm3", "smollm3", num_hidden_layers=5),
]
EXPERTS = {"moe_intermediate_size": 12, "num_experts": 5, "num_experts_per_tok": 2}
MSCALE = {"mscale": 0.7, "mscale_all_dim": 0.7}
DEEPSEEK = {
    "num_key_value_heads": 6,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "kv_lora_rank": 10,
    "q_lora_rank": 14,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
}
SPARSE = [
    case("mixtral", "mixtral", num_local_experts=5, num_experts_per_tok=2, head_dim=6),
    case("mixtral-window", "mixtral", num_local_experts=4, num_experts_per_tok=3, sliding_window=7),
    case(
        "qwen2_moe",
        "qwen2_moe",
        **EXPERTS,
        shared_expert_intermediate_size=28,
        decoder_sparse_step=2,
        norm_topk_prob=True,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=2,
    ),
    case("qwen3_moe", "qwen3_moe", **EXPERTS, head_dim=10, mlp_only_layers=[1]),
    case("gpt_oss", "gpt_oss", num_local_experts=5, num_experts_per_tok=2, head_dim=10, sliding_window=7),
    case(
        "deepseek_v2",
        "deepseek_v2",
        **{**DEEPSEEK, "q_lora_rank": None},
        topk_method="group_limited_greedy",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=1.5,
    ),
    case("deepseek_v2-greedy", "deepseek_v2", **DEEPSEEK, rope_parameters={**YARN, **MSCALE}),
    case("deepseek_v3", "deepseek_v3", **DEEPSEEK, n_group=2, topk_group=1),
    case(
        "deepseek_v3-yarn",
        "deepseek_v3",
        **DEEPSEEK,
        n_group=3,
        topk_group=2,
        attention_bias=True,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    ),
]
STATES = ("num_key_value_heads", "num_attention_heads", "intermediate_size", "max_position_embeddings")
HEADS = {"num_heads": 6, "head_dim": 8, "n_groups": 2, "state_size": 8}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
}
RECURRENT = [
    case("mamba", "mamba", without=STATES, state_size=5),
    case("mamba-biases", "mamba", without=STATES, use_bias=True, use_conv_bias=False, tie_word_embeddings=False),
    case("mamba2", "mamba2", without=STATES, **HEADS),
    case("mamba2-biases", "mamba2", without=STATES, **HEADS, use_bias=True, use_conv_bias=False),
    case(
        "jamba",
        "jamba",
        num_hidden_layers=4,
        attn_layer_period=4,
        attn_layer_offset=2,
        num_experts=3,
        use_mamba_kernels=False,
    ),
    case("rwkv", "rwkv", without=STATES, intermediate_size=44, context_length=64),
    case(
        "qwen3_next",
        "qwen3_next",
        **EXPERTS,
        **DELTA,
        num_hidden_layers=4,
        shared_expert_intermediate_size=8,
        head_dim=8,
    ),
    case("diffllama", "diffllama"),
]
CASES = {case.name: case for case in DENSE + SPARSE + RECURRENT}


def build(case: Case, seed: int = 0) -> torch.nn.Module:
    """Every parameter, biases and scales too, away from the value that would hide it."""
    config = CONFIG_MAPPING[case.model_type](**case.settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=case.attention, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for name, b in model.named_buffers() if name.endswith("_bias"))]:
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    return model.eval()


def reload(directory: Path, case: Case) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(directory, attn_implementation=case.attention).eval()


def logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(tokens, np.int64))).logits.numpy()


def greedy_ids(model: torch.nn.Module, prompt: list[int], count: int) -> list[int]:
    """What its own `generate` appends, whatever ends there are."""
    model.generation_config.eos_token_id = None
    given = torch.tensor([prompt])
    written = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False)
    return written[0, len(prompt) :].tolist()


def save_gradients(model: torch.nn.Module, tokens: np.ndarray, directory: Path) -> float:
    """Write the gradients of the mean loss of the next token, each where its parameter would be; the loss."""
    given = torch.from_numpy(np.asarray(tokens, np.int64))
    loss = torch.nn.functional.cross_entropy(model(given).logits[:, :-1].flatten(0, 1), given[:, 1:].flatten())
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(directory)
    return loss.item()
