"""Channel mixers: the position-wise layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu", "relu2", "clamped_swiglu"]


@dataclass(frozen=True)
class MLPConfig:
    """The position-wise feed-forward layer."""

    kind: Literal["mlp"] = "mlp"
    """Names this class in files."""
    d_ff: int = 3072
    """Hidden width, F."""
    activation: Activation = "gelu_tanh"
    """Nonlinearity; relu2 is the squared ReLU, quick_gelu x * sigmoid(1.702 x) (CLIP), clamped_swiglu that of
    GPT-OSS."""
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
    """Scores: softmax over all experts, softmax over the chosen ones, a sigmoid each; or experts choose tokens of a
    row, which looks ahead in the text: such a model cannot generate (Zhou et al. 2022)."""
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
    """Weight of the load-balancing loss of a layer, 1 where the load is even (Switch, Fedus et al. 2021)."""
    sequence_loss: float = 0.0
    """Weight of the same loss taken in each row of the batch by itself (DeepSeek-V3, equation 17)."""
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
    """Slots of an expert in each row of the batch, next to an even share of the row; used by dispatch=capacity and by
    expert choice."""

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
        if self.activation == "clamped_swiglu" and not self.gated:
            raise ValueError("the activation clamped_swiglu has a gate: set moe.gated=true")
        if self.shared_gate and not self.shared_d_ff:
            raise ValueError("moe.shared_gate=true needs a shared expert: set moe.shared_d_ff")
        if self.capacity_factor <= 0:
            raise ValueError(f"moe.capacity_factor must be positive, got {self.capacity_factor}")
        if self.balance_rate < 0 and self.balance_rate != -1:
            raise ValueError(f"moe.balance_rate must be positive, 0 or -1, got {self.balance_rate}")
        for name in ("load_loss", "sequence_loss", "z_loss"):
            if getattr(self, name) < 0:
                raise ValueError(f"moe.{name} must not be negative, got {getattr(self, name)}")
        if self.router == "expert_choice":
            self._check_expert_choice()

    def _check_expert_choice(self) -> None:
        idle = {
            "normalize": self.normalize,
            "num_groups": self.num_groups > 1,
            "balance_rate": self.balance_rate >= 0,
            "load_loss": self.load_loss > 0,
            "sequence_loss": self.sequence_loss > 0,
        }
        for name in [name for name, wanted in idle.items() if wanted]:
            raise ValueError(f"moe.{name} is for tokens that choose experts; moe.router=expert_choice is even as it is")
