"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): parallel branches, a quarter of each head turned."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.rope_entries import read_rope, rope_entries
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import AttentionConfig, MLPConfig, NormConfig, ResidualConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    context, bias = hf.integer("max_position_embeddings", 2048), hf.flag("attention_bias", True)
    theta_name = "rotary_emb_base" if "rotary_emb_base" in hf else "rope_theta"
    fraction_name = "rotary_pct" if "rotary_pct" in hf else "partial_rotary_factor"
    rope = read_rope(hf, context, theta_name=theta_name, fraction=0.25, fraction_name=fraction_name)
    hf.ignore("rope_theta", "partial_rotary_factor")
    return ModelConfig(
        vocab_size=hf.integer("vocab_size"),
        context_length=context,
        d_model=hf.integer("hidden_size"),
        num_layers=hf.integer("num_hidden_layers"),
        attention=AttentionConfig(num_heads=hf.integer("num_attention_heads"), qkv_bias=bias, out_bias=bias, rope=rope),
        mlp=MLPConfig(d_ff=hf.integer("intermediate_size"), activation=hf.activation("hidden_act", "gelu"), bias=True),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_eps", 1e-5)),
        residual=ResidualConfig(parallel=hf.flag("use_parallel_residual", True)),
        tie_embeddings=hf.flag("tie_word_embeddings", False),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    attention, mlp = first(config, AttentionConfig), first(config, MLPConfig)
    rope = rope_entries(attention.rope, config.context_length, with_fraction=True)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "num_attention_heads": attention.num_heads,
        "attention_bias": attention.qkv_bias,
        "rotary_emb_base": rope.pop("rope_theta"),
        "rotary_pct": rope.pop("partial_rotary_factor"),
        "intermediate_size": mlp.d_ff,
        "hidden_act": written_activation(mlp.activation),
        "layer_norm_eps": config.norm.epsilon,
        "use_parallel_residual": config.residual.parallel,
        "tie_word_embeddings": config.tie_embeddings,
        **rope,
    }


ATTENTION = (
    *(
        rule
        for place, name in enumerate(("query", "key", "value"))
        for rule in (
            tensor(name, "attention.query_key_value.weight", "(H p K) D -> D H K", p=(place, place + 1, 3)),
            tensor(f"{name}_bias", "attention.query_key_value.bias", "(H p K) -> H K", p=(place, place + 1, 3)),
        )
    ),
    tensor("out", "attention.dense.weight", "D (H K) -> H K D"),
    tensor("out_bias", "attention.dense.bias"),
)
MLP = (
    tensor("up", "mlp.dense_h_to_4h.weight", "F D -> D F"),
    tensor("up_bias", "mlp.dense_h_to_4h.bias"),
    tensor("down", "mlp.dense_4h_to_h.weight", "D F -> F D"),
    tensor("down_bias", "mlp.dense_4h_to_h.bias"),
)
NORMS = tuple(
    tensor(f"{ours}.{part}", f"{theirs}.{name}")
    for ours, theirs in (("mixer_norm", "input_layernorm"), ("channel_norm", "post_attention_layernorm"))
    for part, name in (("scale", "weight"), ("bias", "bias"))
)


def weights(config: ModelConfig) -> WeightMap:
    return WeightMap(
        (
            tensor("embedding", "gpt_neox.embed_in.weight"),
            tensor("norm.scale", "gpt_neox.final_layer_norm.weight"),
            tensor("norm.bias", "gpt_neox.final_layer_norm.bias"),
            tensor("head", "embed_out.weight"),
        ),
        {
            "segments": Stack(
                config.segments(), "gpt_neox.layers.{i}.", NORMS, {AttentionConfig: ATTENTION}, {MLPConfig: MLP}
            )
        },
        base="gpt_neox.",
        tied={"embed_out.weight": "gpt_neox.embed_in.weight"} if config.tie_embeddings else {},
        ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    )


FAMILIES = (Family("gpt_neox", "GPTNeoXForCausalLM", config_from, config_to, weights),)
