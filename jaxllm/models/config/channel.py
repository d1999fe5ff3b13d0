"""Channel mixers: the position-wise layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "relu2", "clamped_swiglu"]


@dataclass(frozen=True)
class MLPConfig:
    """The position-wise feed-forward layer."""

    kind: Literal["mlp"] = "mlp"
    """Names this class in files."""
    d_ff: int = 3072
    """Hidden width, F."""
    activation: Activation = "gelu_tanh"
    """Nonlinearity; relu2 is the squared ReLU, clamped_swiglu that of GPT-OSS."""
    gated: bool = False
    """Multiply the activation by a second projection (SwiGLU with silu, GeGLU with gelu)."""
    bias: bool = False
    """Add biases to all projections."""

    def __post_init__(self):
        if self.activation == "clamped_swiglu" and not self.gated:
            raise ValueError("the activation clamped_swiglu has a gate: set gated=true")


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts: each token goes to a few of many MLPs."""

    kind: Literal["moe"] = "moe"
    """Names this class in files."""
    num_experts: int = 8
    """Experts, E."""
    top_k: int = 2
    """Experts that a token goes to."""
    d_ff: int = 3072
    """Hidden width of an expert, F."""
    activation: Activation = "silu"
    """Nonlinearity of experts."""
    gated: bool = True
    """Experts are gated MLPs."""
    bias: bool = False
    """Experts have biases."""
    router: Literal["softmax", "softmax_of_top_k", "sigmoid", "expert_choice"] = "softmax"
    """Scores: softmax over all experts, softmax over the chosen ones, a sigmoid each; or experts choose tokens."""
    router_bias: bool = False
    """Add a bias to the router's logits."""
    normalize: bool = False
    """Divide the weights of the chosen experts by their sum."""
    scale: float = 1.0
    """Factor of the weights of the chosen experts."""
    num_groups: int = 1
    """Groups of experts; a token first chooses groups (DeepSeek)."""
    top_k_groups: int = 1
    """Groups a token may choose experts from."""
    group_score: Literal["max", "top2"] = "top2"
    """A group is as good as its best expert (DeepSeek-V2) or its best two together (V3)."""
    balance_rate: float = -1.0
    """Step of the selection bias that balances load without a loss (Wang et al. 2024); 0 keeps the bias as it is, -1
    means no bias."""
    load_loss: float = 0.0
    """Weight of the load-balancing loss (Switch, Fedus et al. 2021)."""
    z_loss: float = 0.0
    """Weight of the mean squared log-partition of the router (ST-MoE, Zoph et al. 2022)."""
    shared_d_ff: int = 0
    """Hidden width of the expert that every token goes to (of several together); 0 means none."""
    shared_gate: bool = False
    """Multiply the shared expert by a sigmoid gate (Qwen2-MoE)."""
    dispatch: Literal["dropless", "capacity", "dense"] = "dropless"
    """Sort tokens by expert and multiply ragged groups; or fixed slots that overflow; or every expert on every token,
    the slow twin of both."""
    capacity_factor: float = 1.25
    """Slots of an expert, next to an even share; used by dispatch=capacity and by expert choice."""

    def __post_init__(self):
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"moe.top_k={self.top_k} must be between 1 and moe.num_experts={self.num_experts}")
        if self.num_experts % self.num_groups or not 1 <= self.top_k_groups <= self.num_groups:
            raise ValueError(
                f"moe.num_groups={self.num_groups} must divide moe.num_experts={self.num_experts}, and "
                f"moe.top_k_groups={self.top_k_groups} must be between 1 and moe.num_groups"
            )
        if self.top_k > self.top_k_groups * (self.num_experts // self.num_groups):
            raise ValueError(f"moe.top_k={self.top_k} is more than {self.top_k_groups} groups have experts")
