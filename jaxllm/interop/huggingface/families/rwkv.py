"""RWKV-4 (Peng et al. 2023): a decaying average in place of attention, LayerNorms, no positions."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.layer_pattern import first
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import Block, EmbeddingConfig, NormConfig, RWKVChannelConfig, RWKVConfig


def config_from(hf: ConfigFile) -> ModelConfig:
    width = hf.integer("hidden_size")
    hf.ignore("rescale_every")  # halves activations and weights together, against overflow in float16
    return ModelConfig(
        vocab_size=hf.integer("vocab_size"),
        context_length=hf.integer("context_length", 1024),
        d_model=width,
        num_layers=hf.integer("num_hidden_layers"),
        pattern=(
            Block(
                RWKVConfig(d_attention=hf.integer("attention_hidden_size", width)),
                RWKVChannelConfig(d_ff=hf.integer("intermediate_size", 4 * width)),
            ),
        ),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=hf.number("layer_norm_epsilon", 1e-5)),
        embedding=EmbeddingConfig(norm=True),
        positions="none",
        tie_embeddings=hf.flag("tie_word_embeddings", False),
    )


def config_to(config: ModelConfig) -> dict[str, Any]:
    channel = config.blocks()[0].channel
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "attention_hidden_size": first(config, RWKVConfig).d_attention or config.d_model,
        "intermediate_size": getattr(channel, "d_ff", 0) or 4 * config.d_model,
        "layer_norm_epsilon": config.norm.epsilon,
        "tie_word_embeddings": config.tie_embeddings,
    }


TIME_MIXING = (
    *(tensor(f"mix_{name}", f"attention.time_mix_{name}", "1 1 D -> D") for name in ("key", "value", "receptance")),
    *(tensor(name, f"attention.{name}.weight", "O I -> I O") for name in ("key", "value", "receptance")),
    tensor("decay", "attention.time_decay"),
    tensor("bonus", "attention.time_first"),
    tensor("out", "attention.output.weight", "O I -> I O"),
)
CHANNEL_MIXING = (
    *(tensor(f"mix_{name}", f"feed_forward.time_mix_{name}", "1 1 D -> D") for name in ("key", "receptance")),
    *(tensor(name, f"feed_forward.{name}.weight", "O I -> I O") for name in ("key", "receptance", "value")),
)
PARTS = (("scale", "weight"), ("bias", "bias"))
NORMS = tuple(
    tensor(f"{ours}_norm.{part}", f"{theirs}.{name}")
    for ours, theirs in (("mixer", "ln1"), ("channel", "ln2"))
    for part, name in PARTS
)


def weights(config: ModelConfig) -> WeightMap:
    model = (
        tensor("embedding", "rwkv.embeddings.weight"),
        *(tensor(f"embedding_norm.{part}", f"rwkv.blocks.0.pre_ln.{name}") for part, name in PARTS),
        *(tensor(f"norm.{part}", f"rwkv.ln_out.{name}") for part, name in PARTS),
        tensor("head", "head.weight"),
    )
    mixers, channels = {RWKVConfig: TIME_MIXING}, {RWKVChannelConfig: CHANNEL_MIXING}
    return WeightMap(
        model,
        {"segments": Stack(config.segments(), "rwkv.blocks.{i}.", NORMS, mixers, channels)},
        base="rwkv.",
        tied={"head.weight": "rwkv.embeddings.weight"} if config.tie_embeddings else {},
    )


FAMILIES = (Family("rwkv", "RwkvForCausalLM", config_from, config_to, weights),)
