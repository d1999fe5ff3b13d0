"""Encoders: a stack whose attention looks both ways, and what is put on top of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxllm.models.config.channel import Activation
from jaxllm.models.config.model import ModelConfig


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder of text (BERT and its relatives): a trunk and heads."""

    trunk: ModelConfig
    """Embeddings and blocks; all of its attention has causal=false."""
    padding_positions: bool = False
    """Positions count the real tokens of a row only, and padding stands at -1 (RoBERTa); else they count all."""
    first_norm: bool = True
    """The first layer has a norm before its attention; false where the embeddings have just been normalized
    (ModernBERT). Then that layer is the trunk's prologue."""
    masked_head: bool = False
    """There is a head that predicts masked tokens: a transform, then scores by the trunk's output head."""
    transform_activation: Activation = "gelu"
    """Nonlinearity of the transform: norm(activation(x W + b))."""
    transform_bias: bool = True
    """The transform's product has a bias."""
    pooler: Literal["none", "tanh", "transform"] = "none"
    """What makes one vector of a text ready for the classifier: nothing, tanh(x W + b) (BERT, RoBERTa), or the
    transform of the masked head (ModernBERT)."""
    pooling: Literal["first", "mean"] = "first"
    """Where that vector comes from: the first position, or the mean of all real ones."""
    num_classes: int = 0
    """Classes that a text falls into; 0 means there is no classifier."""
    classifier_bias: bool = True
    """The classifier has a bias."""

    def __post_init__(self):
        for block in self.trunk.blocks():
            if block.mixer != "none" and getattr(block.mixer, "causal", True):
                raise ValueError(
                    f"an encoder looks both ways, {block.mixer.kind} here does not: set trunk.attention.causal=false"
                )
        if not self.first_norm and self.trunk.segments()[0].repeats != 1:
            raise ValueError("first_norm=false needs the first layer alone in a segment: name it in trunk.prologue")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is a number of classes or 0, got {self.num_classes}")

    @property
    def has_transform(self) -> bool:
        """Whether the transform has parameters."""
        return self.masked_head or self.pooler == "transform"
