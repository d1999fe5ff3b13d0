"""Encoder-decoders: one stack reads the source, another writes the target and looks at what the first made of it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.models.config.cross_attention import CrossAttentionConfig, RelativeBiasConfig
from jaxllm.models.config.model import Block, ModelConfig


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """A sequence-to-sequence Transformer (T5, BART). Both stacks share one embedding table."""

    encoder: ModelConfig
    """The stack that reads; its attention has causal=false."""
    decoder: ModelConfig
    """The stack that writes, and the head. A layer of it is two blocks, as `decoder_pattern` makes them."""
    encoder_bias: RelativeBiasConfig | None = None
    """Relative positions of the encoder's attention (T5)."""
    decoder_bias: RelativeBiasConfig | None = None
    """Relative positions of the decoder's attention to itself (T5)."""
    start_token: int = 0
    """What stands before the first token of a target."""
    end_token: int = 1
    """What ends a target."""
    pad_token: int = 0
    """What fills rows that are shorter."""

    def __post_init__(self):
        if self.encoder.vocab_size != self.decoder.vocab_size or self.encoder.d_model != self.decoder.d_model:
            raise ValueError(
                "encoder and decoder share their embeddings, so vocab_size and d_model must be equal, got "
                f"{self.encoder.vocab_size} x {self.encoder.d_model} and "
                f"{self.decoder.vocab_size} x {self.decoder.d_model}"
            )
        mixers = [block.mixer for block in self.decoder.blocks()]
        if not any(isinstance(mixer, CrossAttentionConfig) for mixer in mixers):
            raise ValueError("no block of the decoder looks at the encoder: give it the pattern of decoder_pattern()")
        for block in self.encoder.blocks():
            if block.mixer != "none" and getattr(block.mixer, "causal", True):
                raise ValueError("the encoder looks both ways: set encoder.attention.causal=false")
        for name, bias in (("encoder_bias", self.encoder_bias), ("decoder_bias", self.decoder_bias)):
            if bias is not None and bias.bidirectional != (name == "encoder_bias"):
                raise ValueError(f"{name}.bidirectional must be {name == 'encoder_bias'}")


def decoder_pattern(cross: CrossAttentionConfig) -> tuple[Block, Block]:
    """A decoder's layer: attention to itself, then attention to the memory and the MLP. It counts as two of
    `num_layers`."""
    return Block(channel="none"), Block(mixer=cross)
