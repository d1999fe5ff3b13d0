"""Attention from a decoder to the output of an encoder, and relative positions as biases on scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxllm.models.config.attention import check_heads


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Softmax attention whose queries come from the stream, and keys and values from an encoder's output."""

    kind: Literal["cross_attention"] = "cross_attention"
    """Names this class in files."""
    num_heads: int = 12
    """Query heads, H."""
    num_kv_heads: int = 0
    """Key/value heads, G; 0 means as many as query heads."""
    head_dim: int = 0
    """Width of a head, K; 0 means d_model / num_heads."""
    d_memory: int = 0
    """Width of the encoder's output; 0 means d_model."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values."""
    out_bias: bool = False
    """Add a bias to the output projection."""
    scale: float = 0.0
    """Factor of the scores; 0 means 1 / sqrt(K)."""

    def __post_init__(self):
        check_heads(self.num_heads, self.num_kv_heads)

    @property
    def kv_heads(self) -> int:
        """Key/value heads, G."""
        return self.num_kv_heads or self.num_heads


@dataclass(frozen=True)
class RelativeBiasConfig:
    """A learned bias on the scores for each head and range of distances, shared by all layers (T5)."""

    buckets: int = 32
    """Ranges of distances: half of them hold one distance each, the rest grow with the logarithm."""
    max_distance: int = 128
    """Distances from here on share the last bucket."""
    bidirectional: bool = True
    """Half of the buckets are for keys after the query; false where no key is."""

    def __post_init__(self):
        one_way = self.buckets // 2 if self.bidirectional else self.buckets
        if self.buckets % 2 or one_way < 2 or self.max_distance <= one_way // 2:
            raise ValueError(
                f"relative_bias.buckets={self.buckets} and max_distance={self.max_distance} leave no range to grow: "
                "the buckets of one direction must be two or more, and half of them fewer than max_distance"
            )
