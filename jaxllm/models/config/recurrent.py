"""Sequence mixers with a state of fixed size: state-space models, linear attention, RWKV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MambaConfig:
    """Selective state space with a diagonal state matrix (Mamba, Gu and Dao 2023)."""

    kind: Literal["mamba"] = "mamba"
    """Names this class in files."""
    d_state: int = 16
    """State of each channel, N."""
    d_conv: int = 4
    """Width of the causal convolution before the scan."""
    expand: int = 2
    """Channels are this many times d_model."""
    dt_rank: int = 0
    """Width of the projection that the step size is made from; 0 means d_model / 16 rounded up."""
    conv_bias: bool = True
    """Add a bias to the convolution."""
    proj_bias: bool = False
    """Add a bias to the projections in and out."""
    inner_norm: bool = False
    """RMS-normalize step size, B and C (Jamba)."""
    scan: Literal["chunked", "associative"] = "chunked"
    """How a whole sequence is computed: a scan over chunks, parallel within each, or one associative scan, which holds
    the states of all positions at once."""
    chunk: int = 16
    """Positions of a chunk; the states of one should fit into a processor's cache."""

    def __post_init__(self):
        _at_least("mamba", self, d_state=1, d_conv=1, expand=1, dt_rank=0, chunk=1)

    def step_rank(self, d_model: int) -> int:
        """Width of the projection that the step size is made from, R."""
        return self.dt_rank or -(-d_model // 16)


@dataclass(frozen=True)
class Mamba2Config:
    """State-space duality (Mamba-2, Dao and Gu 2024): one decay a head, computed as blocks of products."""

    kind: Literal["mamba2"] = "mamba2"
    """Names this class in files."""
    d_state: int = 128
    """State of each channel, N."""
    d_conv: int = 4
    """Width of the causal convolution before the scan."""
    expand: int = 2
    """Channels are this many times d_model."""
    head_dim: int = 64
    """Channels of a head, P."""
    num_groups: int = 1
    """Groups of heads that share B and C."""
    conv_bias: bool = True
    """Add a bias to the convolution."""
    proj_bias: bool = False
    """Add a bias to the projections in and out."""
    dt_min: float = 0.0
    """Lower limit of the step size."""
    dt_max: float = 0.0
    """Upper limit of the step size; 0 means none."""
    rotary_state: bool = False
    """Let tokens turn the state, pair by pair, by angles computed from the input: a complex state (Mamba-3)."""
    chunk: int = 64
    """Positions of a chunk."""

    def __post_init__(self):
        _at_least("mamba2", self, d_state=1, d_conv=1, expand=1, head_dim=1, num_groups=1, dt_min=0, dt_max=0, chunk=1)
        if self.dt_max and self.dt_max <= self.dt_min:
            raise ValueError(f"mamba2.dt_max={self.dt_max} must be above dt_min={self.dt_min}, or 0 for no limit")
        if self.rotary_state and self.d_state % 2:
            raise ValueError(f"mamba2.rotary_state turns pairs of the state: d_state={self.d_state} must be even")

    def num_heads(self, d_model: int) -> int:
        """Heads, H. Raises ValueError where they do not come out even."""
        heads, rest = divmod(self.expand * d_model, self.head_dim)
        if rest or heads % self.num_groups:
            raise ValueError(
                f"expand * d_model = {self.expand * d_model} channels must be whole heads of "
                f"mamba2.head_dim={self.head_dim}, and the heads fall into mamba2.num_groups={self.num_groups}"
            )
        return heads


@dataclass(frozen=True)
class GatedDeltaConfig:
    """Linear attention whose state decays and is corrected by the delta rule (Yang et al. 2024)."""

    kind: Literal["gated_delta"] = "gated_delta"
    """Names this class in files."""
    num_heads: int = 32
    """Value heads, H."""
    num_key_heads: int = 16
    """Query and key heads, G; each serves num_heads / num_key_heads value heads."""
    key_dim: int = 128
    """Width of a query and key."""
    value_dim: int = 128
    """Width of a value."""
    d_conv: int = 4
    """Width of the causal convolution on queries, keys and values; 0 means none."""
    decay: bool = True
    """Let the state decay by a gate computed from the input."""
    delta: bool = True
    """Write the error of the state's own answer (the delta rule) rather than the value itself."""
    chunk: int = 64
    """Positions of a chunk."""

    def __post_init__(self):
        _at_least("gated_delta", self, num_heads=1, num_key_heads=1, key_dim=1, value_dim=1, d_conv=0, chunk=1)
        if self.num_heads % self.num_key_heads:
            raise ValueError(
                f"gated_delta.num_heads={self.num_heads} must be a multiple of num_key_heads={self.num_key_heads}"
            )


@dataclass(frozen=True)
class RWKVConfig:
    """Time mixing of RWKV-4 (Peng et al. 2023): an exponentially decaying average of values, gated."""

    kind: Literal["rwkv"] = "rwkv"
    """Names this class in files."""
    d_attention: int = 0
    """Channels; 0 means d_model."""
    chunk: int = 64
    """Positions of a chunk."""

    def __post_init__(self):
        _at_least("rwkv", self, d_attention=0, chunk=1)


@dataclass(frozen=True)
class RWKVChannelConfig:
    """Channel mixing of RWKV-4: a squared-ReLU layer over this and the previous token, gated."""

    kind: Literal["rwkv_channel"] = "rwkv_channel"
    """Names this class in files."""
    d_ff: int = 0
    """Hidden width; 0 means 4 d_model."""

    def __post_init__(self):
        _at_least("rwkv_channel", self, d_ff=0)


def _at_least(name: str, config: object, **smallest: int) -> None:
    for field, bound in smallest.items():
        if getattr(config, field) < bound:
            raise ValueError(f"{name}.{field} must be at least {bound}, got {getattr(config, field)}")
