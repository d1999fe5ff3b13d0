"""What holds the mixers together: norms, residual branches, embedding and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NormConfig:
    """Normalization of the residual stream."""

    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """RMSNorm scales by the root mean square; LayerNorm also subtracts the mean."""
    bias: bool = False
    """Add a learned bias (LayerNorm only)."""
    scale: bool = True
    """Multiply by a learned scale."""
    unit_offset: bool = False
    """The learned scale is stored less 1, so that it starts, and decays, towards 1 (Gemma)."""
    epsilon: float = 1e-5
    """Added to the mean square under the root."""

    def __post_init__(self):
        if self.kind == "rmsnorm" and self.bias:
            raise ValueError("an RMSNorm has no bias: set model.norm.bias=false or model.norm.kind=layernorm")


@dataclass(frozen=True)
class ResidualConfig:
    """How the branches of a block join the residual stream."""

    norm: Literal["pre", "post", "sandwich", "branch"] = "pre"
    """Norms on the input of each branch (pre), on the sum (post, BERT), on input and output of the branch (sandwich,
    Gemma 2), or on its output alone (branch, OLMo 2)."""
    parallel: bool = False
    """Both branches of a block read the same stream: x + mixer(norm(x)) + channel(norm(x))."""
    shared_norm: bool = False
    """Parallel branches also share one norm (Falcon 7B)."""
    multiplier: float = 1.0
    """Factor of every branch (Granite)."""
    stochastic_depth: float = 0.0
    """Chance to skip the last block's branches for a sequence while training; grows linearly from 0 at the first."""

    def __post_init__(self):
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"model.residual.stochastic_depth must be in [0, 1), got {self.stochastic_depth}")
        if self.parallel and self.norm != "pre":
            raise ValueError(f"parallel branches have norms before them: model.residual.norm=pre, not {self.norm}")
        if self.shared_norm and not self.parallel:
            raise ValueError("model.residual.shared_norm=true needs model.residual.parallel=true")


@dataclass(frozen=True)
class EmbeddingConfig:
    """From ids to the residual stream."""

    scale: float = 1.0
    """Factor of the embeddings (sqrt(d_model) in Gemma)."""
    norm: bool = False
    """Normalize their sum (BERT, RWKV)."""
    position_offset: int = 0
    """Row of the learned positions that the first token takes (2 in RoBERTa)."""
    token_types: int = 0
    """Rows of the table of token types (BERT); 0 means none."""


@dataclass(frozen=True)
class HeadConfig:
    """From the residual stream to logits."""

    bias: bool = False
    """Add a bias for each token."""
    scale: float = 1.0
    """Factor of the logits."""
    softcap: float = 0.0
    """Logits become softcap * tanh(logits / softcap), after the scale; 0 means as they are (Gemma 2)."""


@dataclass(frozen=True)
class MultiTokenConfig:
    """Predicting more than the next token (Gloeckle et al. 2024; DeepSeek-V3)."""

    depth: int = 1
    """Further tokens that are predicted, D; 0 means none."""
    kind: Literal["sequential", "parallel"] = "sequential"
    """One module after another, each reading the one before and the next token (DeepSeek-V3), or independent blocks on
    the same trunk (Gloeckle)."""

    def __post_init__(self):
        if self.depth < 0:
            raise ValueError(f"model.multi_token.depth must not be negative, got {self.depth}")


@dataclass(frozen=True)
class MuPConfig:
    """Maximal update parametrization: hyperparameters tuned at the base size hold at every size (Yang et al. 2022)."""

    base_width: int = 256
    """d_model that the hyperparameters were tuned at."""
    base_depth: int = 0
    """num_layers that they were tuned at; 0 means that depth does not scale (µP alone)."""
    depth_alpha: float = 1.0
    """CompleteP (Dey et al. 2025): branches are multiplied by (num_layers / base_depth) ** -alpha."""

    def __post_init__(self):
        if self.base_width < 1 or self.base_depth < 0:
            raise ValueError(
                f"mup.base_width={self.base_width} and mup.base_depth={self.base_depth} are sizes of a model "
                "(base_depth=0: depth does not scale)"
            )
        if not 0.5 <= self.depth_alpha <= 1:
            raise ValueError(f"mup.depth_alpha must be in [0.5, 1], got {self.depth_alpha}")
