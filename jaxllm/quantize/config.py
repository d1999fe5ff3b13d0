"""In which numbers the products of training are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ProductConfig:
    """Products of activations with hidden weight matrices. Embeddings, head, routers, experts, norms and the inside of
    attention stay in the compute type."""

    kind: Literal["none", "int8", "fp8"] = "none"
    """Type of both operands: the compute type, int8, or e4m3 forward with e5m2 gradients (Micikevicius et al. 2022)."""
    scales: Literal["tensor", "block"] = "tensor"
    """One scale a tensor; or one for every `block` activations of a token along the sum and for every block x block of
    weights (DeepSeek-V3, section 3.3)."""
    scaling: Literal["current", "delayed"] = "current"
    """Scales from the tensor itself, or from the largest magnitudes of the last `history` steps."""
    block: int = 128
    """Side of a block."""
    history: int = 16
    """Steps that delayed scaling looks back."""
    backward: Literal["quantized", "compute"] = "quantized"
    """Type of the two products of the gradients: as the forward one, or the compute type."""

    def __post_init__(self):
        for name in ("block", "history"):
            if getattr(self, name) < 1:
                raise ValueError(f"precision.products.{name} must be at least 1, got {getattr(self, name)}")
        if self.scaling == "delayed" and self.scales != "tensor":
            raise ValueError(
                "precision.products.scaling=delayed remembers one magnitude a tensor: set "
                "precision.products.scales=tensor, or scaling=current"
            )
        if self.scaling == "delayed" and self.backward == "compute":
            raise ValueError(
                "precision.products.scaling=delayed takes what it remembers from the gradients' products: set "
                "precision.products.backward=quantized, or scaling=current"
            )

    @property
    def delayed(self) -> bool:
        return self.kind != "none" and self.scaling == "delayed"
