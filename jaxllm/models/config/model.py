"""What an architecture is: a handful of dials and a pattern of blocks.

`ModelConfig.segments()` turns the pattern into the segments that the decoder scans over, so every family of decoder is
a value of these classes and none is a class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from jaxllm.kernels.config import KernelConfig
from jaxllm.models.config.attention import (
    AttentionConfig,
    DifferentialAttentionConfig,
    LatentAttentionConfig,
    SparseAttentionConfig,
)
from jaxllm.models.config.channel import MLPConfig, MoEConfig
from jaxllm.models.config.cross_attention import CrossAttentionConfig
from jaxllm.models.config.recurrent import (
    GatedDeltaConfig,
    Mamba2Config,
    MambaConfig,
    RWKVChannelConfig,
    RWKVConfig,
)
from jaxllm.models.config.structure import (
    EmbeddingConfig,
    HeadConfig,
    MultiTokenConfig,
    MuPConfig,
    NormConfig,
    ResidualConfig,
)

SequenceMixer = (
    AttentionConfig
    | LatentAttentionConfig
    | DifferentialAttentionConfig
    | SparseAttentionConfig
    | MambaConfig
    | Mamba2Config
    | GatedDeltaConfig
    | RWKVConfig
    | CrossAttentionConfig
)
ChannelMixer = MLPConfig | MoEConfig | RWKVChannelConfig


@dataclass(frozen=True)
class Block:
    """One layer: a sequence mixer (moves information along the text), then a channel mixer (within a position)."""

    mixer: Literal["attention", "none"] | SequenceMixer = "attention"
    """Sequence mixer of this block; "attention" is the model's own."""
    channel: Literal["mlp", "none"] | ChannelMixer = "mlp"
    """Channel mixer of this block; "mlp" is the model's own."""


@dataclass(frozen=True)
class Segment:
    """A tuple of blocks repeated `repeats` times; its parameters are stacked and one scan runs over them."""

    blocks: tuple[Block, ...]
    repeats: int
    first: int
    """Number of its first layer in the model."""


@dataclass(frozen=True)
class ModelConfig:
    """A language model: embeddings, blocks, a head."""

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
    """What blocks with the mixer "attention" have."""
    mlp: MLPConfig = MLPConfig()
    """What blocks with the channel mixer "mlp" have."""
    norm: NormConfig = NormConfig()
    """Norms around each mixer and before the head."""
    residual: ResidualConfig = ResidualConfig()
    """How branches join the stream."""
    positions: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = "rope"
    """Rotary embeddings on queries and keys, a table added to the embeddings (learned, or of sines), linear biases on
    the scores, or nothing."""
    embedding: EmbeddingConfig = EmbeddingConfig()
    """From ids to the stream."""
    head: HeadConfig = HeadConfig()
    """From the stream to logits."""
    tie_embeddings: bool = True
    """Use the embedding table as the output head."""
    multi_token: MultiTokenConfig | None = None
    """Predict further tokens than the next."""
    dropout: float = 0.0
    """Chance to drop a unit of the embeddings and of each residual branch while training."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; 0 means 1/sqrt(fan-in)."""
    residual_init: Literal["scaled", "zero"] = "scaled"
    """Projections back into the residual stream start smaller by sqrt(2 * num_layers), or at zero."""
    mup: MuPConfig | None = None
    """Scale initialization, learning rates and multipliers with width (and depth)."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of activations and of weights inside products; norms, softmax and loss are in float32, and so are
    parameters unless precision.parameters says otherwise. Training in float16 scales its loss."""
    kernels: KernelConfig = KernelConfig()
    """Which implementation computes what; no part of the architecture."""

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
        for mixer in {block.mixer for block in self.blocks()}:
            self._check_attention(mixer)

    def _check_attention(self, mixer: object) -> None:
        if not hasattr(mixer, "head_dim") or isinstance(mixer, Mamba2Config):
            return
        if not mixer.head_dim and self.d_model % mixer.num_heads:
            raise ValueError(
                f"model.d_model={self.d_model} is not a multiple of num_heads={mixer.num_heads}: "
                "change one of them, or set head_dim (model.attention.head_dim)"
            )
        turned = int(self.head_width(mixer) * mixer.rope.fraction) if hasattr(mixer, "rope") else 0
        if self.positions == "rope" and turned % 2:
            raise ValueError(f"rotary positions turn pairs of units, so head_dim must be even, got {turned}")

    def head_width(self, mixer: AttentionConfig | DifferentialAttentionConfig | SparseAttentionConfig) -> int:
        """Width of a query and key head, K."""
        if mixer.head_dim:
            return mixer.head_dim
        halves = 2 if isinstance(mixer, DifferentialAttentionConfig) and mixer.version == 1 else 1
        return self.d_model // mixer.num_heads // halves

    @property
    def num_kv_heads(self) -> int:
        """Key/value heads of the model's own attention."""
        return self.attention.kv_heads

    @property
    def head_dim(self) -> int:
        """Head width of the model's own attention."""
        return self.head_width(self.attention)

    def resolve(self, block: Block) -> Block:
        """The block with "attention" and "mlp" replaced by what they stand for."""
        mixer = self.attention if block.mixer == "attention" else block.mixer
        return replace(block, mixer=mixer, channel=self.mlp if block.channel == "mlp" else block.channel)

    def blocks(self) -> tuple[Block, ...]:
        """All blocks from first to last, resolved."""
        cycled = self.num_layers - len(self.prologue)
        named = self.prologue + tuple(self.pattern[i % len(self.pattern)] for i in range(cycled))
        return tuple(self.resolve(block) for block in named)

    def segments(self) -> tuple[Segment, ...]:
        """The blocks as few scanned segments: runs of the prologue, whole patterns, and what is left of the last
        pattern. Blocks are resolved."""
        runs = [((block,), len(list(run))) for block, run in groupby(map(self.resolve, self.prologue))]
        pattern = tuple(map(self.resolve, self.pattern))
        whole, rest = divmod(self.num_layers - len(self.prologue), len(pattern))
        runs += [(pattern, whole)] if whole else []
        runs += [(pattern[:rest], 1)] if rest else []
        segments, first = [], 0
        for blocks, repeats in runs:
            segments.append(Segment(blocks, repeats, first))
            first += len(blocks) * repeats
        return tuple(segments)
