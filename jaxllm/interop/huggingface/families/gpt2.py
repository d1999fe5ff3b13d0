"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, matrices stored [in, out], one for q, k and v."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig, NormConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    hf.only("scale_attn_weights", True)
    hf.only("scale_attn_by_inverse_layer_idx", False)
    hf.only("add_cross_attention", False)
    hf.ignore("reorder_and_upcast_attn", "n_ctx")
    width = hf.integer("n_embd", 768)
    return ModelConfig(
        vocab_size=hf.integer("vocab_size", 50257),
        context_length=hf.integer("n_positions", 1024),
        d_model=width,
        num_layers=hf.integer("n_layer", 12),
        attention=AttentionConfig(num_heads=hf.integer("n_head", 12), qkv_bias=True, out_bias=True),
        mlp=MLPConfig(
            d_ff=hf.integer("n_inner", 4 * width),
            activation=hf.activation("activation_function", "gelu_new"),
            bias=True,
        ),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_epsilon", 1e-5)),
        positions="learned",
        tie_embeddings=hf.flag("tie_word_embeddings", True),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    mlp = first(config, MLPConfig)
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": first(config, AttentionConfig).num_heads,
        "n_inner": mlp.d_ff,
        "activation_function": "gelu_new" if mlp.activation == "gelu_tanh" else written_activation(mlp.activation),
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
    }


ATTENTION = (
    *(
        rule
        for place, name in enumerate(("query", "key", "value"))
        for rule in (
            tensor(name, "attn.c_attn.weight", "D (p H K) -> D H K", p=(place, place + 1, 3)),
            tensor(f"{name}_bias", "attn.c_attn.bias", "(p H K) -> H K", p=(place, place + 1, 3)),
        )
    ),
    tensor("out", "attn.c_proj.weight", "(H K) D -> H K D"),
    tensor("out_bias", "attn.c_proj.bias"),
)
MLP = (
    tensor("up", "mlp.c_fc.weight"),
    tensor("up_bias", "mlp.c_fc.bias"),
    tensor("down", "mlp.c_proj.weight"),
    tensor("down_bias", "mlp.c_proj.bias"),
)
NORMS = tuple(
    tensor(f"{ours}.{part}", f"{theirs}.{name}")
    for ours, theirs in (("mixer_norm", "ln_1"), ("channel_norm", "ln_2"))
    for part, name in (("scale", "weight"), ("bias", "bias"))
)


def weights(config: ModelConfig) -> WeightMap:
    return WeightMap(
        (
            tensor("embedding", "transformer.wte.weight"),
            tensor("position", "transformer.wpe.weight"),
            tensor("norm.scale", "transformer.ln_f.weight"),
            tensor("norm.bias", "transformer.ln_f.bias"),
            tensor("head", "lm_head.weight"),
        ),
        {
            "segments": Stack(
                config.segments(), "transformer.h.{i}.", NORMS, {AttentionConfig: ATTENTION}, {MLPConfig: MLP}
            )
        },
        base="transformer.",
        tied={"lm_head.weight": "transformer.wte.weight"} if config.tie_embeddings else {},
        ignored=(r"h\.\d+\.attn\.(bias|masked_bias)",),
    )


FAMILIES = (Family("gpt2", "GPT2LMHeadModel", config_from, config_to, weights),)
