"""Tiny models that transformers saved, and their logits: `python PATH/make_golden.py`.

Needs the packages of requirements/parity.txt. What the files say depends on nobody's random numbers: the logits are
those of the weights beside them, which are in bfloat16, computed in float32.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[3]))

from tests.interop.huggingface.random_decoders import Case, build, logits  # noqa: E402

SIZES = {
    "vocab_size": 32,
    "hidden_size": 12,
    "intermediate_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_HEADS = {name: size for name, size in SIZES.items() if name not in ("num_key_value_heads", "head_dim")}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Widths in steps of four: the products of experts in PyTorch take no others.
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 3, "intermediate_size": 12}
DEEPSEEK = {
    **{name: size for name, size in SIZES.items() if name != "head_dim"},
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "kv_lora_rank": 6,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 3,
    "v_head_dim": 5,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
GPT2 = {
    "vocab_size": 32,
    "n_positions": 32,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = [
    Case("gpt2", "gpt2", GPT2),
    Case("llama", "llama", {**SIZES, "rope_parameters": LLAMA3}),
    Case("qwen2", "qwen2", {**SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    Case("gemma3", "gemma3_text", {**SIZES, "sliding_window": 5, "num_hidden_layers": 4, "sliding_window_pattern": 2}),
    Case("gpt_neox", "gpt_neox", {**NO_HEADS, "hidden_size": 16, "num_attention_heads": 2}),
    Case("phi3", "phi3", {**SIZES, "hidden_size": 16, "head_dim": 4}),
    Case(
        "stablelm",
        "stablelm",
        {**NO_HEADS, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "qk_layernorm": True},
    ),
    Case("mixtral", "mixtral", {**SIZES, **EXPERTS}),
    Case("gpt_oss", "gpt_oss", {**SIZES, **EXPERTS, "sliding_window": 5}),
    Case("deepseek_v3", "deepseek_v3", DEEPSEEK),
]


def main():
    for case in CASES:
        directory = HERE / case.name
        shutil.rmtree(directory, ignore_errors=True)
        build(case).to(torch.bfloat16).save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation=case.attention, dtype=torch.float32)
        (directory / "generation_config.json").unlink()
        tokens = np.random.default_rng(0).integers(0, 32, (2, 16)).astype(np.int32)
        np.savez_compressed(directory / "logits.npz", tokens=tokens, logits=logits(model.eval(), tokens))
        print(case.name, sum(file.stat().st_size for file in directory.iterdir()), "bytes")


if __name__ == "__main__":
    main()
