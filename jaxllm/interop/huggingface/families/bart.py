"""BART (Lewis et al. 2020): BERT's layers as an encoder and, with attention to it, as a decoder."""

from __future__ import annotations

from typing import Any

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.families.encoder_like import attention, mlp, norm
from jaxllm.interop.huggingface.families.llama_like import written_activation
from jaxllm.interop.huggingface.family import Family
from jaxllm.interop.huggingface.weight_map import Stack, WeightMap, tensor
from jaxllm.models import ModelConfig
from jaxllm.models.config import (
    AttentionConfig,
    CrossAttentionConfig,
    EmbeddingConfig,
    EncoderDecoderConfig,
    HeadConfig,
    MLPConfig,
    NormConfig,
    ResidualConfig,
)
from jaxllm.models.config.encoder_decoder import decoder_pattern

POSITION_OFFSET = 2


def config_from(hf: ConfigFile) -> EncoderDecoderConfig:
    hf.only("is_encoder_decoder", True)
    for name in ("normalize_before", "add_final_layer_norm", "add_bias_logits", "static_position_embeddings"):
        hf.only(name, False)
    hf.only("normalize_embedding", True)
    hf.only("extra_pos_embeddings", POSITION_OFFSET)
    hf.ignore("activation_dropout", "dropout", "classif_dropout", "init_std", "num_hidden_layers", "output_past")
    hf.ignore("encoder_layerdrop", "decoder_layerdrop", "force_bos_token_to_be_generated", "num_labels")
    hf.ignore("no_repeat_ngram_size", "num_beams", "early_stopping", "length_penalty", "max_length", "min_length")
    classes = hf.list("architectures", ["BartForConditionalGeneration"])
    if classes[:1] not in (["BartForConditionalGeneration"], ["BartModel"]):
        raise hf.error(f"architectures={classes} is not supported; supported: BartForConditionalGeneration, BartModel")
    width, activation = hf.integer("d_model", 1024), hf.activation("activation_function", "gelu")
    stack = {
        "vocab_size": hf.integer("vocab_size", 50265),
        "context_length": hf.integer("max_position_embeddings", 1024),
        "d_model": width,
        "norm": NormConfig(kind="layernorm", bias=True),
        "residual": ResidualConfig(norm="post"),
        "positions": "learned",
        "embedding": EmbeddingConfig(
            norm=True,
            position_offset=POSITION_OFFSET,
            scale=width**0.5 if hf.flag("scale_embedding", False) else 1.0,
        ),
        "tie_embeddings": hf.flag("tie_word_embeddings", True),
    }
    heads = {side: hf.integer(f"{side}_attention_heads", 16) for side in ("encoder", "decoder")}
    layers = {side: hf.integer(f"{side}_layers", 12) for side in heads}
    mlps = {
        side: MLPConfig(d_ff=hf.integer(f"{side}_ffn_dim", 4096), activation=activation, bias=True) for side in heads
    }
    cross = CrossAttentionConfig(num_heads=heads["decoder"], qkv_bias=True, out_bias=True)
    return EncoderDecoderConfig(
        encoder=ModelConfig(
            **stack,
            num_layers=layers["encoder"],
            mlp=mlps["encoder"],
            attention=AttentionConfig(num_heads=heads["encoder"], causal=False, qkv_bias=True, out_bias=True),
        ),
        decoder=ModelConfig(
            **stack,
            num_layers=2 * layers["decoder"],
            mlp=mlps["decoder"],
            attention=AttentionConfig(num_heads=heads["decoder"], qkv_bias=True, out_bias=True),
            pattern=decoder_pattern(cross),
            head=HeadConfig(bias=classes[0] != "BartModel"),
        ),
        start_token=hf.integer("decoder_start_token_id", 2),
        end_token=hf.integer("eos_token_id", 2),
        pad_token=hf.integer("pad_token_id", 1),
    )


def config_to(config: EncoderDecoderConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    return {
        "architectures": ["BartForConditionalGeneration" if decoder.head.bias else "BartModel"],
        "vocab_size": encoder.vocab_size,
        "max_position_embeddings": encoder.context_length,
        "d_model": encoder.d_model,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers // 2,
        "encoder_attention_heads": encoder.attention.num_heads,
        "decoder_attention_heads": decoder.attention.num_heads,
        "encoder_ffn_dim": encoder.mlp.d_ff,
        "decoder_ffn_dim": decoder.mlp.d_ff,
        "activation_function": written_activation(encoder.mlp.activation),
        "scale_embedding": encoder.embedding.scale != 1,
        "tie_word_embeddings": decoder.tie_embeddings,
        "is_encoder_decoder": True,
        "decoder_start_token_id": config.start_token,
        "eos_token_id": config.end_token,
        "pad_token_id": config.pad_token,
        # Absent, transformers would force the end token onto the last place.
        "forced_eos_token_id": None,
    }


def _stack(config: ModelConfig, side: str, blocks_per_layer: int) -> Stack:
    last = norm("channel_post_norm", "final_layer_norm")

    def named(prefix: str):
        return attention(*(f"{prefix}.{part}_proj" for part in ("q", "k", "v", "out")))

    return Stack(
        config.segments(),
        f"model.{side}.layers.{{i}}.",
        (*norm("mixer_post_norm", "self_attn_layer_norm"), *last),
        {AttentionConfig: named("self_attn"), CrossAttentionConfig: named("encoder_attn")},
        {MLPConfig: mlp("fc1", "fc2")},
        norms={CrossAttentionConfig: (*norm("mixer_post_norm", "encoder_attn_layer_norm"), *last)},
        blocks_per_layer=blocks_per_layer,
    )


def weights(config: EncoderDecoderConfig) -> WeightMap:
    table, head = "model.shared.weight", "lm_head.weight"
    copies = ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]
    return WeightMap(
        (
            tensor("embedding", table),
            *(
                rule
                for side in ("encoder", "decoder")
                for rule in (
                    tensor(f"{side}.position", f"model.{side}.embed_positions.weight"),
                    *norm(f"{side}.embedding_norm", f"model.{side}.layernorm_embedding"),
                )
            ),
            tensor("decoder.head", head),
            tensor("decoder.head_bias", "final_logits_bias", "1 V -> V"),
        ),
        {
            "encoder.segments": _stack(config.encoder, "encoder", 1),
            "decoder.segments": _stack(config.decoder, "decoder", 2),
        },
        base="model.",
        tied=dict.fromkeys([*copies, *([head] if config.decoder.tie_embeddings else [])], table),
    )


FAMILIES = (Family("bart", "BartForConditionalGeneration", config_from, config_to, weights),)
