"""What recomputation saves and costs, in closed form.

Letters: L layers, k layers of a group; s tokens of a sequence, b sequences, h width, a heads. Bytes are those of 16-bit
activations. FLOPs are counted in forward passes of a layer: a training step without recomputation takes 3 of them, one
forward and two backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Korthikanti et al. 2022, equation 1 and table 2: bytes of a layer for each of the s b h units of its stream.
KEPT_BY_ALL, KEPT_BY_SELECTIVE, KEPT_BY_FULL = 34, 34, 2


def layer_bytes(s: int, b: int, h: int, a: int, policy: str = "none") -> int:
    """Activations of one layer of GPT that the backward pass needs, with dropout masks as that paper counts them.

    `none`: s b h (34 + 5 a s / h); `attention`: all but the a s s scores, their softmax and its dropout; `full`: the
    layer's input. Raises ValueError for another policy.
    """
    match policy:
        case "none":
            return s * b * h * KEPT_BY_ALL + 5 * a * s * s * b
        case "attention":
            return s * b * h * KEPT_BY_SELECTIVE
        case "full":
            return s * b * h * KEPT_BY_FULL
    raise ValueError(f"no closed form for remat policy {policy!r}: expected none, attention or full")


def grouped_bytes(layers: int, every: int, input_bytes: float, layer_bytes: float) -> float:
    """Peak of keeping one input in every group of layers: all inputs, and one group's activations while it is computed
    again, ceil(L / k) input + k layer."""
    return math.ceil(layers / every) * input_bytes + every * layer_bytes


def inputs_only_bytes(layers: int, every: int, input_bytes: float) -> float:
    """The same if a layer had no activations but its input, (L / k + k) input: the textbook's curve, with its minimum
    at sqrt(L). It is far too low for real layers, whose inside is many times their input: see `grouped_bytes`."""
    return (layers / every + every) * input_bytes


def best_group(layers: int, input_bytes: float, layer_bytes: float) -> int:
    """The k that makes `grouped_bytes` smallest; without the rounding to whole groups it is sqrt(L input / layer)."""
    return min(range(1, layers + 1), key=lambda k: (grouped_bytes(layers, k, input_bytes, layer_bytes), k))


def full_cost(layers: int) -> tuple[float, float]:
    """(without, with) full recomputation of every layer: 3 L and 4 L forward passes. Groups of any size cost the same,
    since everything between two kept inputs is computed again."""
    return 3.0 * layers, 4.0 * layers


def inputs_only_overhead(every: int) -> float:
    """Extra work where a layer's activations are its input alone: of each group, the first input is there, and the
    other k - 1 are computed again: (k - 1) / (3 k) of a step."""
    return (every - 1) / every / 3


def attention_overhead(s: int, h: int, *, averages: bool = True) -> float:
    """Extra work of recomputing the scores (and with `averages` the averages of values too) alone: a layer takes
    24 s h^2 for weights and 2 s^2 h for each of the two. Raises nothing; independent of the number of heads."""
    again = (4 if averages else 2) * s * s * h
    return again / (3 * (24 * s * h * h + 4 * s * s * h))


@dataclass(frozen=True)
class Choice:
    """What to do with the activations of a layer, and the seconds it adds to a step."""

    action: str
    seconds: float


def should_recompute(
    kept_bytes: float, recompute_flops: float, flops_per_second: float, host_bytes_per_second: float = 0.0
) -> Choice:
    """For activations that do not fit: compute them again, or move them to host memory and back, whichever is shorter.

    Moving overlaps with computing at best, so its two transfers are an upper bound of what it adds; a bandwidth of 0
    means there is no host memory. What fits is best kept.
    """
    again = Choice("recompute", recompute_flops / flops_per_second)
    if not host_bytes_per_second:
        return again
    return min(again, Choice("offload", 2 * kept_bytes / host_bytes_per_second), key=lambda choice: choice.seconds)
