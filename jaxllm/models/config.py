"""What an architecture is: a handful of dials and a pattern of blocks.

`ModelConfig.segments()` turns the pattern into the segments that the decoder scans over, so every family of decoder is
a value of these classes and none is a class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal


@dataclass(frozen=True)
class Block:
    """One layer: a sequence mixer (moves information along the text), then a channel mixer (within a position)."""

    mixer: Literal["attention"] = "attention"
    """Sequence mixer of this block."""
    channel: Literal["mlp", "none"] = "mlp"
    """Channel mixer of this block."""


@dataclass(frozen=True)
class Segment:
    """A tuple of blocks repeated `repeats` times; its parameters are stacked and one scan runs over them."""

    blocks: tuple[Block, ...]
    repeats: int


@dataclass(frozen=True)
class AttentionConfig:
    """Softmax attention with grouped key/value heads."""

    num_heads: int = 12
    """Query heads, H."""
    num_kv_heads: int = 0
    """Key/value heads, G; 0 means as many as query heads (multi-head attention), 1 is multi-query attention."""
    head_dim: int = 0
    """Width of a head, K; 0 means d_model / num_heads."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values."""
    out_bias: bool = False
    """Add a bias to the output projection."""
    qk_norm: bool = False
    """RMS-normalize queries and keys, each with a learned scale of width head_dim."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies; used when positions are "rope"."""


@dataclass(frozen=True)
class MLPConfig:
    """The position-wise feed-forward layer."""

    d_ff: int = 3072
    """Hidden width, F."""
    activation: Literal["gelu", "gelu_tanh", "silu", "relu", "relu2"] = "gelu_tanh"
    """Nonlinearity; relu2 is the squared ReLU."""
    gated: bool = False
    """Multiply the activation by a second projection (SwiGLU with silu, GeGLU with gelu)."""
    bias: bool = False
    """Add biases to all projections."""


@dataclass(frozen=True)
class NormConfig:
    """Normalization of the residual stream."""

    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """RMSNorm scales by the root mean square; LayerNorm also subtracts the mean."""
    bias: bool = False
    """Add a learned bias (LayerNorm only)."""
    epsilon: float = 1e-5
    """Added to the mean square under the root."""

    def __post_init__(self):
        if self.kind == "rmsnorm" and self.bias:
            raise ValueError("an RMSNorm has no bias: set model.norm.bias=false or model.norm.kind=layernorm")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only language model."""

    vocab_size: int = 0
    """Rows of the embedding table, V; 0 means the tokenizer's vocabulary rounded up to a multiple of 64."""
    context_length: int = 1024
    """Longest sequence it is trained on and generates, T."""
    d_model: int = 768
    """Width of the residual stream, D."""
    num_layers: int = 12
    """Blocks in all: the prologue, then the pattern cycled."""
    prologue: tuple[Block, ...] = ()
    """Blocks before the pattern starts (the first dense layers of some mixture-of-experts models)."""
    pattern: tuple[Block, ...] = (Block(),)
    """Blocks repeated to fill num_layers; a hybrid names several."""
    attention: AttentionConfig = AttentionConfig()
    """Attention blocks."""
    mlp: MLPConfig = MLPConfig()
    """MLP blocks."""
    norm: NormConfig = NormConfig()
    """Norms before each mixer and before the head."""
    positions: Literal["rope", "learned", "none"] = "rope"
    """Rotary embeddings on queries and keys, a learned table added to the embeddings, or nothing."""
    tie_embeddings: bool = True
    """Use the embedding table as the output head."""
    dropout: float = 0.0
    """Chance to drop a unit of the embeddings and of each residual branch while training."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; 0 means 1/sqrt(fan-in)."""
    residual_init: Literal["scaled", "zero"] = "scaled"
    """Projections back into the residual stream start smaller by sqrt(2 * num_layers), or at zero."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and of weights inside products; parameters stay float32, and so do norms, softmax and
    loss."""

    def __post_init__(self):
        for name in ("context_length", "d_model", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.vocab_size < 0:
            raise ValueError(f"model.vocab_size must be positive, or 0 to take the tokenizer's, got {self.vocab_size}")
        if not self.pattern:
            raise ValueError("model.pattern needs at least one block")
        if len(self.prologue) > self.num_layers:
            raise ValueError(
                f"model.prologue has {len(self.prologue)} blocks, more than model.num_layers={self.num_layers}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        heads, groups = self.attention.num_heads, self.num_kv_heads
        if heads < 1 or heads % groups:
            raise ValueError(f"model.attention.num_heads={heads} must be a positive multiple of num_kv_heads={groups}")
        if not self.attention.head_dim and self.d_model % heads:
            raise ValueError(
                f"model.d_model={self.d_model} is not a multiple of model.attention.num_heads={heads}: "
                "change one of them, or set model.attention.head_dim"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of units, so head_dim must be even, got {self.head_dim}")

    @property
    def num_kv_heads(self) -> int:
        return self.attention.num_kv_heads or self.attention.num_heads

    @property
    def head_dim(self) -> int:
        return self.attention.head_dim or self.d_model // self.attention.num_heads

    def blocks(self) -> tuple[Block, ...]:
        """All blocks from first to last."""
        cycled = self.num_layers - len(self.prologue)
        return self.prologue + tuple(self.pattern[i % len(self.pattern)] for i in range(cycled))

    def segments(self) -> tuple[Segment, ...]:
        """The blocks as few scanned segments: runs of the prologue, whole patterns, and what is left of the last
        pattern."""
        runs = tuple(Segment((block,), len(list(run))) for block, run in groupby(self.prologue))
        whole, rest = divmod(self.num_layers - len(self.prologue), len(self.pattern))
        body = (Segment(self.pattern, whole),) if whole else ()
        tail = (Segment(self.pattern[:rest], 1),) if rest else ()
        return runs + body + tail
