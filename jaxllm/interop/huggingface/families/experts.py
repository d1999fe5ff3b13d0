"""Names of experts, in config.json and in weights, that several families share."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.weight_map import Tensor, tensor


def expert_rules(
    mixer: str, *, router: str = "gate", names: Sequence[str] = ("up_proj", "gate_proj", "down_proj")
) -> tuple[Tensor, ...]:
    """Experts each with their own matrices, and a router, under the name of the mixer."""
    return (
        tensor("router", f"{mixer}.{router}.weight", "E D -> D E"),
        *(
            tensor(f"experts.{ours}", f"{mixer}.experts.{{e}}.{theirs}.weight", "O I -> e I O")
            for ours, theirs in zip(("up", "gate", "down"), names, strict=True)
        ),
    )


def read_experts(hf: ConfigFile) -> int:
    return hf.integer("num_experts" if "num_experts" in hf else "num_local_experts")
