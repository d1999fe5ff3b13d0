"""Sequence mixers with keys and values: softmax attention and its relatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (Su et al. 2021) and how they are stretched beyond the trained length."""

    theta: float = 10_000.0
    """Base of the frequencies."""
    fraction: float = 1.0
    """Part of each head that is turned; the rest carries no position (0.25 in GPT-NeoX)."""
    interleaved: bool = False
    """Pairs are neighbours (2i, 2i+1) rather than halves (i, i + K/2)."""
    scaling: Literal["none", "linear", "ntk", "dynamic_ntk", "yarn", "longrope", "llama3"] = "none"
    """How the frequencies are stretched."""
    factor: float = 1.0
    """How many times longer than original_context; 1 in YaRN and LongRoPE means context_length / original_context."""
    original_context: int = 0
    """Length the frequencies were trained for; 0 means the model's context_length."""
    beta_fast: float = 32.0
    """YaRN: turns within original_context above which a frequency stays as it is."""
    beta_slow: float = 1.0
    """YaRN: turns below which a frequency is divided by the factor."""
    truncate: bool = True
    """YaRN: round the bounds of the ramp to whole dimensions."""
    mscale: float = 0.0
    """YaRN (DeepSeek): weight of log(factor) in the scale of cosine and sine; counts together with mscale_all_dim."""
    mscale_all_dim: float = 0.0
    """YaRN (DeepSeek): the same, divided out of cosine and sine; latent attention puts it on the scores instead. Where
    either is 0, cosine and sine take the standard weight 1."""
    attention_factor: float = 0.0
    """YaRN, LongRoPE: scale of cosine and sine; 0 means the formula of the method."""
    low_freq_factor: float = 1.0
    """Llama 3: waves longer than original_context / this are stretched by the whole factor."""
    high_freq_factor: float = 4.0
    """Llama 3: waves shorter than original_context / this are left alone."""
    short_factor: tuple[float, ...] = ()
    """LongRoPE: one divisor a frequency, for texts within original_context."""
    long_factor: tuple[float, ...] = ()
    """LongRoPE: the same for longer texts."""

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise ValueError(f"rope.fraction must be in (0, 1], got {self.fraction}")
        if self.factor < 1:
            raise ValueError(f"rope.factor must be at least 1, got {self.factor}")
        if self.scaling == "longrope" and not (self.short_factor and self.long_factor):
            raise ValueError("rope.scaling=longrope needs rope.short_factor and rope.long_factor")
        if self.theta <= 1:
            raise ValueError(f"rope.theta, the base of the frequencies, must be above 1, got {self.theta}")
        if self.original_context < 0 or self.attention_factor < 0:
            raise ValueError(
                f"rope.original_context and .attention_factor are positive or 0, got {self.original_context} and "
                f"{self.attention_factor}"
            )
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rope.low_freq_factor={self.low_freq_factor} must be below high_freq_factor={self.high_freq_factor}"
            )
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"rope.beta_slow={self.beta_slow} must be below beta_fast={self.beta_fast}")


@dataclass(frozen=True)
class AttentionConfig:
    """Softmax attention with grouped key/value heads."""

    kind: Literal["attention"] = "attention"
    """Names this class in files."""
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
    qk_norm: Literal["none", "shared", "per_head", "whole"] = "none"
    """Normalize queries and keys as the model's norms do, without a bias: each head, by one scale [K] for all (Qwen 3)
    or one of its own [H, K] (StableLM); or all heads at once, with a scale [H, K] too (OLMo 2)."""
    rope: RopeConfig = RopeConfig()
    """Rotary frequencies; used when the model's positions are "rope"."""
    no_positions: bool = False
    """Use neither rotary positions nor ALiBi in this layer (NoPE)."""
    alibi_scaled: bool = False
    """ALiBi is added before the scores get their factor, not after (Falcon)."""
    window: int = 0
    """A query sees this many positions, itself included (not causal: half of it to either side); 0 means all."""
    chunk: int = 0
    """A query sees only its own chunk of this many positions; 0 means all."""
    causal: bool = True
    """A query sees no later position; false in encoders."""
    sinks: bool = False
    """A learned score for each head that takes part in the softmax and carries no value (GPT-OSS)."""
    softcap: float = 0.0
    """Scores become softcap * tanh(scores / softcap); 0 means as they are (Gemma 2)."""
    scale: float = 0.0
    """Factor of the scores; 0 means 1 / sqrt(K)."""
    gate: bool = False
    """Multiply the heads' outputs by a sigmoid gate computed from the input (Qwen3-Next)."""

    def __post_init__(self):
        check_heads(self.num_heads, self.num_kv_heads)
        if self.window < 0 or self.chunk < 0:
            raise ValueError(f"attention.window and .chunk are lengths or 0, got {self.window} and {self.chunk}")
        if self.softcap < 0 or self.scale < 0:
            raise ValueError(f"attention.softcap and .scale are positive or 0, got {self.softcap} and {self.scale}")

    @property
    def kv_heads(self) -> int:
        """Key/value heads, G."""
        return self.num_kv_heads or self.num_heads


@dataclass(frozen=True)
class LatentAttentionConfig:
    """Multi-head latent attention (DeepSeek-V2, Liu et al. 2024): keys and values from one narrow latent."""

    kind: Literal["latent_attention"] = "latent_attention"
    """Names this class in files."""
    num_heads: int = 16
    """Heads, H."""
    q_rank: int = 0
    """Width of the query's latent; 0 means queries are projected directly."""
    kv_rank: int = 512
    """Width of the latent that keys and values are made from, and that the cache holds."""
    nope_dim: int = 128
    """Width of the part of queries and keys that carries no position."""
    rope_dim: int = 64
    """Width of the rotary part; its key is shared by all heads."""
    value_dim: int = 128
    """Width of a head's values."""
    rope: RopeConfig = RopeConfig(interleaved=True)
    """Rotary frequencies of the rotary part."""
    scale: float = 0.0
    """Factor of the scores; 0 means 1 / sqrt(nope_dim + rope_dim), times YaRN's where it is used."""
    bias: bool = False
    """Add a bias to the projections into the latents and out of the heads."""
    norm_epsilon: float = 1e-6
    """Added to the mean square of a latent under the root."""

    def __post_init__(self):
        for name in ("num_heads", "kv_rank", "nope_dim", "rope_dim", "value_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"latent_attention.{name} must be at least 1, got {getattr(self, name)}")
        if self.q_rank < 0 or self.scale < 0:
            raise ValueError(
                f"latent_attention.q_rank and .scale are positive or 0, got {self.q_rank} and {self.scale}"
            )
        if int(self.rope_dim * self.rope.fraction) % 2:
            raise ValueError(f"rotary positions turn pairs of units, so rope_dim must be even, got {self.rope_dim}")


@dataclass(frozen=True)
class DifferentialAttentionConfig:
    """The difference of two softmax maps (Ye et al. 2024), version 1 or 2."""

    kind: Literal["differential_attention"] = "differential_attention"
    """Names this class in files."""
    version: Literal[1, 2] = 2
    """1: head-wise norm and re-parametrized lambda for each layer; 2: lambda from the input, twice the query heads."""
    num_heads: int = 12
    """Heads of the output, H; both versions compute 2 H softmax maps."""
    num_kv_heads: int = 0
    """Key/value heads, G; 0 means as many as num_heads."""
    head_dim: int = 0
    """Width of a query and key of one map, K; 0 means d_model / num_heads in version 2, half of it in version 1."""
    rope: RopeConfig = RopeConfig()
    """Rotary frequencies; used when the model's positions are "rope"."""
    window: int = 0
    """A query sees this many positions, itself included; 0 means all."""
    lambda_init: float = 0.0
    """Version 1: lambda at the start; 0 means 0.8 - 0.6 exp(-0.3 layer), layers counted from 0."""
    head_norm_scale: bool = True
    """Version 1: the norm of each head's output has a learned scale."""
    bias: bool = False
    """Add a bias to all projections."""

    def __post_init__(self):
        check_heads(self.num_heads, self.num_kv_heads)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads


@dataclass(frozen=True)
class SparseAttentionConfig:
    """Native sparse attention (Yuan et al. 2025): compressed, selected and window branches, mixed by gates."""

    kind: Literal["sparse_attention"] = "sparse_attention"
    """Names this class in files."""
    num_heads: int = 12
    """Query heads, H."""
    num_kv_heads: int = 0
    """Key/value heads, G; the heads of a group share their selection. 0 means as many as query heads."""
    head_dim: int = 0
    """Width of a head, K; 0 means d_model / num_heads."""
    rope: RopeConfig = RopeConfig()
    """Rotary frequencies; used when the model's positions are "rope"."""
    compress_block: int = 32
    """Tokens that one compressed key stands for."""
    compress_stride: int = 16
    """Tokens between the starts of two compressed blocks."""
    select_block: int = 64
    """Tokens of a selected block; a multiple of compress_stride."""
    num_selected: int = 16
    """Blocks a query selects, the forced ones included."""
    num_initial: int = 1
    """First blocks that are always selected."""
    num_local: int = 2
    """Newest blocks, the query's own included, that are always selected."""
    window: int = 512
    """Positions of the window branch, the query's own included."""
    compressor: Literal["mlp", "mean"] = "mlp"
    """How a block becomes one key and value: a learned MLP with positions inside the block, or the mean."""

    def __post_init__(self):
        check_heads(self.num_heads, self.num_kv_heads)
        if self.compress_block % self.compress_stride or self.select_block % self.compress_stride:
            raise ValueError(
                f"sparse_attention.compress_stride={self.compress_stride} must divide "
                f"compress_block={self.compress_block} and select_block={self.select_block}"
            )
        if self.num_initial + self.num_local > self.num_selected:
            raise ValueError(
                f"sparse_attention.num_selected={self.num_selected} is fewer than the blocks that are always selected "
                f"({self.num_initial} initial, {self.num_local} local)"
            )

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads


def check_heads(heads: int, kv_heads: int) -> None:
    """Raises ValueError unless the query heads fall into whole groups."""
    if heads < 1 or kv_heads < 0 or heads % (kv_heads or heads):
        raise ValueError(f"num_heads={heads} must be a positive multiple of num_kv_heads={kv_heads}")
