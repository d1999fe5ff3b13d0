"""config.json as published models have it, by whatever version of transformers wrote it."""

from dataclasses import replace

import pytest

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.equivalence import difference
from jaxllm.interop.huggingface.families import FAMILIES
from jaxllm.models import PRESETS, decoder_spec
from jaxllm.models.declare import count

WRITTEN = {"initializer_range": 0.02, "transformers_version": "4.40.0", "use_cache": True, "torch_dtype": "bfloat16"}


def sizes(hidden, inner, layers, heads, groups, vocabulary, context):
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        **WRITTEN,
    }


PUBLISHED = {
    "gpt2": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    },
    "llama3-8b": {
        "model_type": "llama",
        **sizes(4096, 14336, 32, 32, 8, 128256, 8192),
        "attention_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    "mistral-7b": {
        "model_type": "mistral",
        **sizes(4096, 14336, 32, 32, 8, 32000, 32768),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral",
        **sizes(4096, 14336, 32, 32, 8, 32000, 32768),
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "gemma2-9b": {
        "model_type": "gemma2",
        **sizes(3584, 14336, 42, 16, 8, 256000, 8192),
        "attention_bias": False,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "cache_implementation": "hybrid",
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_size": 4096,
    },
    "gemma3-1b": {
        "model_type": "gemma3_text",
        **{name: size for name, size in sizes(1152, 6912, 26, 4, 1, 262144, 32768).items() if name != "hidden_act"},
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        **sizes(7168, 18432, 61, 128, 128, 129280, 163840),
        "attention_bias": False,
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "num_nextn_predict_layers": 1,
        "pretraining_tp": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
    },
    "jamba-v0.1": {
        "model_type": "jamba",
        **{name: size for name, size in sizes(4096, 14336, 32, 32, 8, 65536, 262144).items() if "position" not in name},
        "attn_layer_offset": 4,
        "attn_layer_period": 8,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "calc_logits_for_entire_prompt": False,
        "num_logits_to_keep": 1,
        "n_ctx": 262144,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_dt_rank": 256,
        "mamba_expand": 2,
        "mamba_inner_layernorms": True,
        "mamba_proj_bias": False,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "output_router_logits": False,
        "rms_norm_eps": 1e-6,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_mamba_kernels": True,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_the_preset(name):
    read = read_entries(PUBLISHED[name])
    if name == "deepseek-v3":  # the preset is without the modules that predict further tokens
        assert read.multi_token.depth == 1
        read = replace(read, multi_token=None)
    assert difference(read, PRESETS[name]()) == ""


COUNTED = {
    "pythia-160m": (
        {
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "vocab_size": 50304,
            "use_parallel_residual": True,
            **WRITTEN,
        },
        162_322_944,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon",
            "alibi": False,
            "apply_residual_connection_post_layernorm": False,
            "attention_dropout": 0.0,
            "bias": False,
            "hidden_dropout": 0.0,
            "hidden_size": 4544,
            "layer_norm_epsilon": 1e-5,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            "parallel_attn": True,
            "vocab_size": 65024,
            **WRITTEN,
        },
        6_921_720_704,
    ),
    "phi-3-mini-4k": (
        {
            "model_type": "phi3",
            **sizes(3072, 8192, 32, 32, 32, 32064, 4096),
            "auto_map": {"AutoConfig": "x"},
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "rms_norm_eps": 1e-5,
            "original_max_position_embeddings": 4096,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
            "attention_bias": False,
        },
        3_821_079_552,
    ),
    "qwen2.5-0.5b": (
        {
            "model_type": "qwen2",
            **sizes(896, 4864, 24, 14, 2, 151936, 32768),
            "max_window_layers": 24,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_mrope": False,
            "use_sliding_window": False,
        },
        494_032_768,
    ),
    "llama-3.2-1b": (
        {
            "model_type": "llama",
            **sizes(2048, 8192, 16, 32, 8, 128256, 131072),
            "attention_bias": False,
            "head_dim": 64,
            "mlp_bias": False,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "eos_token_id": [128001, 128008, 128009],
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "rope_type": "llama3",
                "original_max_position_embeddings": 8192,
            },
        },
        1_235_814_400,
    ),
    "gpt-oss-20b": (
        {
            "model_type": "gpt_oss",
            **sizes(2880, 2880, 24, 64, 8, 201088, 131072),
            "attention_bias": True,
            "experts_per_token": 4,
            "head_dim": 64,
            "initial_context_length": 4096,
            "layer_types": ["sliding_attention", "full_attention"] * 12,
            "num_experts_per_tok": 4,
            "num_local_experts": 32,
            "output_router_logits": False,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000,
            "router_aux_loss_coef": 0.9,
            "sliding_window": 128,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": False,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 32.0,
                "rope_type": "yarn",
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        20_914_757_184,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_it_has_as_many_parameters_as_published(name):
    entries, parameters = COUNTED[name]
    assert count(decoder_spec(read_entries(entries))) == parameters


def test_the_names_of_rotary_entries_changed_over_the_years():
    old, _ = COUNTED["pythia-160m"]
    between = {name: value for name, value in old.items() if name not in ("rotary_emb_base", "rotary_pct")}
    new = between | {"rope_parameters": {"rope_type": "default", "rope_theta": 300, "partial_rotary_factor": 0.5}}
    expected = read_entries(old | {"rotary_emb_base": 300, "rotary_pct": 0.5})
    assert (expected.attention.rope.theta, expected.attention.rope.fraction) == (300, 0.5)
    assert read_entries(between | {"rope_theta": 300, "partial_rotary_factor": 0.5}) == expected
    assert read_entries(new) == expected


def test_an_option_with_one_supported_value():
    entries, _ = COUNTED["gpt-oss-20b"]
    read_entries(entries | {"swiglu_limit": 7})
    with pytest.raises(ValueError, match="config.json: swiglu_limit=8.0 is not supported; supported: 7.0"):
        read_entries(entries | {"swiglu_limit": 8.0})


def read_entries(entries):
    return FAMILIES[entries["model_type"]].read(ConfigFile(entries))
