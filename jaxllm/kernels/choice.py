"""Which kernel computes a layer: the one that the config names, or by the platform; never another one in silence."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.kernels.platform import platform
from jaxllm.kernels.visibility import Reach
from jaxllm.parallel.sharding import current_layout
from jaxllm.parallel.text_order import splits_text


@dataclass(frozen=True)
class AttentionCase:
    """What a layer asks of softmax attention over whole sequences."""

    dtype: str
    key_width: int
    value_width: int
    reach: Reach = Reach()
    softcap: float = 0.0
    sinks: bool = False
    bias: bool = False


@dataclass(frozen=True)
class Choice:
    """A kernel and, in a few words, why it is this one."""

    kernel: str
    reason: str


# The platforms that a kernel is for; those that are not here run on all.
PLATFORMS = {"flash": ("tpu",), "cudnn": ("cuda",), "megablox": ("tpu",), "pallas": ("tpu",)}
# What "auto" is where memory or operations give a reason to prefer a kernel. This project has timed none of them, so
# the scan over a state space, whose only gain would be speed, is chosen by name alone.
PREFERRED_ATTENTION = {"tpu": "flash", "cuda": "cudnn"}
PREFERRED_EXPERTS = {"cpu": "blocks", "tpu": "megablox"}


def attention_refusals(kernel: str, case: AttentionCase) -> list[str]:
    """What of the case the kernel can't do, in words; empty where it can do all of it."""
    refused, layout = [], current_layout()
    if kernel != "plain" and case.bias:
        refused.append("it takes no bias on the scores (ALiBi, relative positions)")
    if splits_text(layout) and not (kernel == "blockwise" or (kernel == "flash" and _gets_whole_rows(layout))):
        refused.append(f"it needs whole rows, and each lies on {layout.ways('length')} devices (mesh.context)")
    if kernel == "cudnn":
        if case.softcap:
            refused.append(f"it has no soft-cap (softcap={case.softcap})")
        if case.sinks:
            refused.append("it has no sinks")
        if case.dtype not in ("bfloat16", "float16"):
            refused.append(f"it computes in bfloat16 or float16, and compute_dtype is {case.dtype}")
        if case.key_width % 8 or case.key_width > 256:
            refused.append(f"its heads have a width of at most 256, a multiple of 8, not {case.key_width}")
        if case.key_width != case.value_width:
            refused.append(f"its values are as wide as its keys, not {case.value_width} beside {case.key_width}")
    return refused


def choose_attention(wanted: str, case: AttentionCase) -> Choice:
    """Raises ValueError where the kernel that is named can't honour the case, with all reasons."""
    refusals = lambda kernel: attention_refusals(kernel, case)  # noqa: E731
    layout = current_layout()
    if wanted == "auto" and splits_text(layout):
        why = f"each row lies on {layout.ways('length')} devices, {layout.forms.context_form}"
        flash = PREFERRED_ATTENTION.get(platform()) == "flash" and not refusals("flash")
        return Choice("flash" if flash else "blockwise", why)
    otherwise = "plain" if platform() == "cpu" or case.bias else "blockwise"
    return _choose("attention", wanted, PREFERRED_ATTENTION, otherwise, refusals)


def _gets_whole_rows(layout) -> bool:
    """Whether the text's devices take turns with the heads', so that each computes on whole rows."""
    return layout.forms.context_form == "ulysses"


def choose_experts(wanted: str) -> Choice:
    """For the product of rows with their experts' matrices."""
    return _choose("experts", wanted, PREFERRED_EXPERTS, "ragged", lambda kernel: [])


def choose_scan(wanted: str) -> Choice:
    """For the chunks of Mamba-2's state space."""
    return _choose("scan", wanted, {}, "plain", lambda kernel: [])


def _choose(field: str, wanted: str, preferred: dict[str, str], otherwise: str, refusals) -> Choice:
    here = platform()
    if wanted != "auto":
        reasons = refusals(wanted)
        if here not in PLATFORMS.get(wanted, (here,)):
            reasons = [f"it is for {' and '.join(PLATFORMS[wanted])}, and this runs on {here}", *reasons]
        if reasons:
            raise ValueError(
                f"kernels.{field}={wanted} can't compute this layer: {'; '.join(reasons)}. Choose another one, or "
                '"auto" to go by the platform'
            )
        return Choice(wanted, "as configured")
    if here not in preferred:
        return Choice(otherwise, f"on {here}")
    reasons = refusals(preferred[here])
    if reasons:
        return Choice(otherwise, f"{preferred[here]} can't: {'; '.join(reasons)}")
    return Choice(preferred[here], f"on {here}")
