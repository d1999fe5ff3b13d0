"""Which implementation computes what, as a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class KernelConfig:
    """Which implementation computes what. "auto" goes by the platform, and the plan printed before step 0 says what it
    came to; a kernel named here that can't do what a layer asks is an error."""

    attention: Literal["auto", "plain", "blockwise", "flash", "cudnn"] = "auto"
    """Softmax attention over whole sequences: all scores at once, block by block in plain JAX, the Pallas kernel for
    TPUs, cuDNN's for NVIDIA GPUs. Against a cache it is always plain."""
    experts: Literal["auto", "blocks", "ragged", "megablox"] = "auto"
    """Products of rows with their experts' matrices: a loop over blocks of rows, XLA's ragged product, Pallas's
    megablox for TPUs."""
    scan: Literal["auto", "plain", "pallas"] = "auto"
    """Chunks of Mamba-2's state space: plain JAX, or a Pallas kernel for TPUs."""
    documents: int = 0
    """cuDNN: most documents that a packed row holds (rows with more of them come out as NaN), for its ragged form,
    which needs a Hopper GPU or a later one; 0: a mask of batch x length x length."""

    def __post_init__(self):
        if self.documents < 0:
            raise ValueError(f"kernels.documents is a count or 0, got {self.documents}")
