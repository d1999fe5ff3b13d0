"""What the settings and tensors of a GGUF file mean, by architecture, in the words of transformers' config.json.

The file has its own names for both; under those of transformers the families of `interop.huggingface` know them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.interop.gguf.block_tensor import BlockTensor, ChangedTensor
from jaxllm.interop.gguf.head_rows import halves_of_pairs
from jaxllm.interop.huggingface.config_file import ConfigFile

Tensors = Mapping[str, BlockTensor]


@dataclass(frozen=True)
class Architecture:
    """A value of `general.architecture`."""

    model_type: str
    """Family of transformers."""
    entries: Callable[[ConfigFile, Tensors], dict[str, Any]]
    """config.json from the settings (without their prefix) and the tensors."""
    names: Mapping[str, str]
    """What follows blk.N. in the file, and in transformers; and names outside of blocks."""
    prefix: str = "model.layers."
    adjust: Callable[[str, BlockTensor, dict[str, Any]], BlockTensor | ChangedTensor] | None = None
    """The tensor of that name (the file's) as transformers has it, given config.json."""


_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_SANDWICH_NAMES = _LLAMA_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI3_NAMES = _LLAMA_NAMES | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
# Factors of the frequencies, which become part of the config.
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def _common(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    """Entries that all architectures here have."""
    heads, width = meta.integer("attention.head_count"), meta.integer("embedding_length")
    head_dim = meta.integer("attention.key_length", width // heads)
    meta.only("attention.value_length", head_dim)
    meta.only("rope.dimension_count", head_dim)
    if "token_embd.weight" not in tensors:
        raise meta.error("the tensor token_embd.weight is missing: this is a vocabulary, or a part of a model")
    meta.ignore("vocab_size")
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "num_hidden_layers": meta.integer("block_count"),
        "max_position_embeddings": meta.integer("context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": meta.integer("feed_forward_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number("rope.freq_base", 10_000.0),
    }


def _scaled_rope(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    """The entry rope_scaling, if there is one."""
    meta.ignore("rope.scaling.finetuned")
    method = meta.one_of("rope.scaling.type", {"none": "", "linear": "linear", "yarn": "yarn"}, "none")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
    original = meta.integer("rope.scaling.original_context_length", 0)
    if "rope_freqs.weight" in tensors:
        if method:
            raise meta.error(f"rope.scaling.type={method} and the tensor rope_freqs.weight exclude each other")
        # Llama 3.1's scaling comes worked out: what each frequency is divided by, whatever the length.
        divisors = tensors["rope_freqs.weight"].array().tolist()
        factors = {"short_factor": divisors, "long_factor": divisors, "attention_factor": 1.0}
        return {"rope_scaling": {"rope_type": "longrope", **factors}}
    if not method and factor != 1:
        method = "linear"
    if not method:
        return {}
    scaling = {"rope_type": method, "factor": factor}
    return {"rope_scaling": scaling | ({"original_max_position_embeddings": original} if method == "yarn" else {})}


def _llama(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    biased = any(name.endswith("attn_q.bias") for name in tensors)
    return _common(meta, tensors) | _scaled_rope(meta, tensors) | {"attention_bias": biased}


def _qwen(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    return _common(meta, tensors) | _scaled_rope(meta, tensors)


def _gemma(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    return _common(meta, tensors) | {"hidden_activation": "gelu_pytorch_tanh"}


def _score_width(entries: dict[str, Any], layers_of_27b: int) -> int:
    """The width whose root divides the scores, which no setting says: in the 27B models it is not that of a head."""
    if entries["num_hidden_layers"] == layers_of_27b:
        return entries["hidden_size"] // entries["num_attention_heads"]
    return entries["head_dim"]


def _gemma2(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    entries = _gemma(meta, tensors)
    return entries | {
        "query_pre_attn_scalar": _score_width(entries, layers_of_27b=46),
        "sliding_window": meta.integer("attention.sliding_window", 4096),
        "attn_logit_softcapping": meta.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": meta.number("final_logit_softcapping", 30.0),
    }


def _gemma3(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    entries = _gemma(meta, tensors) | _scaled_rope(meta, tensors)
    return entries | {
        "rope_theta": meta.number("rope.freq_base", 1e6),
        "rope_local_base_freq": meta.number("rope.freq_base_swa", 10_000.0),
        "query_pre_attn_scalar": _score_width(entries, layers_of_27b=62),
        "sliding_window": meta.integer("attention.sliding_window"),
        "sliding_window_pattern": meta.integer("attention.sliding_window_pattern", 6),
        "final_logit_softcapping": meta.number("final_logit_softcapping", 0.0),
    }


def _phi3(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    entries = _common(meta, tensors) | {"sliding_window": meta.integer("attention.sliding_window", 0)}
    original = meta.integer("rope.scaling.original_context_length", entries["max_position_embeddings"])
    factor = meta.number("rope.scaling.attn_factor", 0.0)
    if "rope_factors_long.weight" not in tensors:
        return entries
    scaling = {"type": "longrope"} | ({"attention_factor": factor} if factor else {})
    for name in ("long", "short"):
        scaling[f"{name}_factor"] = tensors[f"rope_factors_{name}.weight"].array().tolist()
    return entries | {"original_max_position_embeddings": original, "rope_scaling": scaling}


def _gpt2(meta: ConfigFile, tensors: Tensors) -> dict[str, Any]:
    return {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "n_positions": meta.integer("context_length"),
        "n_embd": meta.integer("embedding_length"),
        "n_layer": meta.integer("block_count"),
        "n_head": meta.integer("attention.head_count"),
        "n_inner": meta.integer("feed_forward_length"),
        "layer_norm_epsilon": meta.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }


def _turned_halves(name: str, tensor: BlockTensor, entries: dict[str, Any]) -> BlockTensor:
    """This architecture turns neighbouring pairs, so the rows of queries and keys stand in another order."""
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.split(".")[-2])
    return tensor if heads is None else halves_of_pairs(tensor, entries[heads])


def _norms_less_one(name: str, tensor: BlockTensor, entries: dict[str, Any]) -> BlockTensor | ChangedTensor:
    """Files have the norms' scales as they multiply, transformers (and Gemma's configs) their distance from 1."""
    if not name.endswith("norm.weight"):
        return tensor
    return ChangedTensor(tensor, tensor.shape, lambda scale: scale.astype(np.float32) - 1)


def _transposed(name: str, tensor: BlockTensor, entries: dict[str, Any]) -> BlockTensor | ChangedTensor:
    """Files have matrices as [out, in], GPT-2 of transformers as [in, out]."""
    if not re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", name):
        return tensor
    return ChangedTensor(tensor, tensor.shape[::-1], np.transpose)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _llama, _LLAMA_NAMES, adjust=_turned_halves),
    "qwen2": Architecture("qwen2", _qwen, _LLAMA_NAMES),
    "qwen3": Architecture("qwen3", _qwen, _LLAMA_NAMES),
    "gemma": Architecture("gemma", _gemma, _LLAMA_NAMES, adjust=_norms_less_one),
    "gemma2": Architecture("gemma2", _gemma2, _SANDWICH_NAMES, adjust=_norms_less_one),
    "gemma3": Architecture("gemma3_text", _gemma3, _SANDWICH_NAMES, adjust=_norms_less_one),
    "phi3": Architecture("phi3", _phi3, _PHI3_NAMES),
    "gpt2": Architecture("gpt2", _gpt2, _GPT2_NAMES, "transformer.h.", _transposed),
}

_IN_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE = re.compile(r"(\w+)\.(weight|bias)")


def renamed(name: str, architecture: Architecture) -> str:
    """The name in transformers; one that is not known stays, and is reported as no tensor of the model."""
    if match := _IN_BLOCK.fullmatch(name):
        number, what, part = match.groups()
        if what in architecture.names:
            return f"{architecture.prefix}{number}.{architecture.names[what]}.{part}"
    elif (match := _OUTSIDE.fullmatch(name)) and match[1] in architecture.names:
        return f"{architecture.names[match[1]]}.{match[2]}"
    return name
