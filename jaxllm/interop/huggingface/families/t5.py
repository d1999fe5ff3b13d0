"""T5 (Raffel et al. 2020), T5 1.1 (Shazeer 2020) and Flan-T5: relative biases shared by all layers, scores unscaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import attention
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, Tensor, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    CrossAttentionConfig,
    EncoderDecoderConfig,
    HeadConfig,
    MLPConfig,
    NormConfig,
    RelativeBiasConfig,
)
from jaxllm.models.config.encoder_decoder import decoder_pattern

# In T5's words "gelu" is exact alone and the tanh form in a gate.
MLPS = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gated-silu": ("silu", True),
}


def config_from(hf: ConfigFile) -> EncoderDecoderConfig:
    hf.only("is_encoder_decoder", True)
    hf.ignore("dense_act_fn", "is_gated_act", "dropout_rate", "initializer_factor", "output_past")
    heads, layers = hf.integer("num_heads", 8), hf.integer("num_layers", 6)
    width, head_dim = hf.integer("d_model", 512), hf.integer("d_kv", 64)
    activation, gated = hf.one_of("feed_forward_proj", MLPS, "relu")
    tied = hf.flag("tie_word_embeddings", True)
    scaled = hf.flag("scale_decoder_outputs", tied)
    own = AttentionConfig(num_heads=heads, head_dim=head_dim, scale=1.0)
    stack = {
        "vocab_size": hf.integer("vocab_size", 32128),
        "context_length": hf.integer("n_positions", 512),
        "d_model": width,
        "mlp": MLPConfig(d_ff=hf.integer("d_ff", 2048), activation=activation, gated=gated),
        "norm": NormConfig(epsilon=hf.number("layer_norm_epsilon", 1e-6)),
        "positions": "none",
    }
    buckets = {
        "buckets": hf.integer("relative_attention_num_buckets", 32),
        "max_distance": hf.integer("relative_attention_max_distance", 128),
    }
    pad = hf.integer("pad_token_id", 0)
    return EncoderDecoderConfig(
        encoder=ModelConfig(**stack, num_layers=layers, attention=replace(own, causal=False)),
        decoder=ModelConfig(
            **stack,
            num_layers=2 * hf.integer("num_decoder_layers", layers),
            attention=own,
            pattern=decoder_pattern(CrossAttentionConfig(num_heads=heads, head_dim=head_dim, scale=1.0)),
            head=HeadConfig(scale=width**-0.5 if scaled else 1.0),
            tie_embeddings=tied,
        ),
        encoder_bias=RelativeBiasConfig(**buckets),
        decoder_bias=RelativeBiasConfig(**buckets, bidirectional=False),
        start_token=hf.integer("decoder_start_token_id", pad),
        end_token=hf.integer("eos_token_id", 1),
        pad_token=pad,
    )


def config_to(config: EncoderDecoderConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    names = {mlp: name for name, mlp in MLPS.items()}
    shape = (encoder.mlp.activation, encoder.mlp.gated)
    if shape not in names:
        raise ValueError(f"T5 has no name for an MLP with activation={shape[0]} and gated={shape[1]}")
    if config.encoder_bias is None:
        raise ValueError("T5 has relative positions: encoder_bias is missing")
    return {
        "vocab_size": encoder.vocab_size,
        "n_positions": encoder.context_length,
        "d_model": encoder.d_model,
        "d_kv": encoder.head_dim,
        "d_ff": encoder.mlp.d_ff,
        "num_heads": encoder.attention.num_heads,
        "num_layers": encoder.num_layers,
        "num_decoder_layers": decoder.num_layers // 2,
        "feed_forward_proj": names[shape],
        "layer_norm_epsilon": encoder.norm.epsilon,
        "relative_attention_num_buckets": config.encoder_bias.buckets,
        "relative_attention_max_distance": config.encoder_bias.max_distance,
        "tie_word_embeddings": decoder.tie_embeddings,
        "scale_decoder_outputs": decoder.head.scale != 1,
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.start_token,
        "eos_token_id": config.end_token,
        "pad_token_id": config.pad_token,
    }


def _mlp(place: int) -> tuple[Tensor, ...]:
    """The MLP as this sublayer; a gated one has two matrices inwards, wi_0 under the activation."""
    name = f"layer.{place}.DenseReluDense"
    return tensor("down", f"{name}.wo.weight", "O I -> I O"), tensor("gate", f"{name}.wi_0.weight", "O I -> I O")


def _stack(config: ModelConfig, side: str, last: int, blocks_per_layer: int) -> Stack:
    own, cross = "layer.0.SelfAttention", "layer.1.EncDecAttention"
    up = "wi_1" if config.mlp.gated else "wi"
    channel_norm = tensor("channel_norm.scale", f"layer.{last}.layer_norm.weight")
    return Stack(
        config.segments(),
        f"{side}.block.{{i}}.",
        (tensor("mixer_norm.scale", "layer.0.layer_norm.weight"), channel_norm),
        {
            AttentionConfig: attention(f"{own}.q", f"{own}.k", f"{own}.v", f"{own}.o"),
            CrossAttentionConfig: attention(f"{cross}.q", f"{cross}.k", f"{cross}.v", f"{cross}.o"),
        },
        {MLPConfig: (*_mlp(last), tensor("up", f"layer.{last}.DenseReluDense.{up}.weight", "O I -> I O"))},
        norms={CrossAttentionConfig: (tensor("mixer_norm.scale", "layer.1.layer_norm.weight"), channel_norm)},
        blocks_per_layer=blocks_per_layer,
    )


def weights(config: EncoderDecoderConfig) -> WeightMap:
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return WeightMap(
        (
            tensor("embedding", "shared.weight"),
            tensor("encoder.norm.scale", "encoder.final_layer_norm.weight"),
            tensor("decoder.norm.scale", "decoder.final_layer_norm.weight"),
            tensor("encoder_bias", f"encoder.{bias}"),
            tensor("decoder_bias", f"decoder.{bias}"),
            tensor("decoder.head", "lm_head.weight"),
        ),
        {
            "encoder.segments": _stack(config.encoder, "encoder", 1, 1),
            "decoder.segments": _stack(config.decoder, "decoder", 2, 2),
        },
        tied=dict.fromkeys([*copies, *(["lm_head.weight"] if config.decoder.tie_embeddings else [])], "shared.weight"),
        # An old mistake of the first checkpoints: attention to the encoder has no relative positions.
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


FAMILIES = (Family("t5", "T5ForConditionalGeneration", config_from, config_to, weights),)
