"""Floating-point operations of training, and what devices could do at best.

The rule, printed beside every number: 6 operations per token and weight that takes part in a product (2 forward, 4
backward; tables that are looked up do not count, the output head does), plus attention's two products over the keys a
query can see, which under a causal mask are half of the context. Recomputation under remat is not counted: it is not
progress. (PaLM, Chowdhery et al. 2022, appendix B, with the causal half.)
"""

from __future__ import annotations

import jax

from jaxllm.models.config import AttentionConfig, ModelConfig
from jaxllm.models.declare import count
from jaxllm.models.decoder import decoder_spec

RULE = "6 per token and weight in a product, 6 H K T per attention layer (causal half)"

# Dense bfloat16 operations a second and device, from the vendors' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def parameter_count(config: ModelConfig) -> int:
    return count(decoder_spec(config))


def train_flops_per_token(config: ModelConfig, length: int) -> float:
    """Operations to train on one token in sequences of `length`, by the rule above."""
    spec = decoder_spec(config)
    weights = sum(p.size for p in jax.tree.leaves(spec) if p.is_hidden_matrix) + config.vocab_size * config.d_model
    attention_layers = sum(isinstance(block.mixer, AttentionConfig) for block in config.blocks())
    per_layer = 6 * config.attention.num_heads * config.head_dim * length
    return 6.0 * weights + attention_layers * per_layer


def peak_flops(device: jax.Device) -> float | None:
    """The data-sheet peak of one device, None where it is not known (such as on a CPU; see `measured_peak`)."""
    kind = device.device_kind
    matches = [name for name in PEAK_FLOPS if kind.startswith(name)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


def measured_peak(seconds: float = 0.5) -> float:
    """What a large float32 matrix product reaches on this machine, in operations a second: the yardstick for MFU on a
    CPU."""
    import time

    import jax.numpy as jnp

    size = 1024
    product = jax.jit(lambda a: a @ a)
    a = jnp.ones((size, size), jnp.float32)
    product(a).block_until_ready()
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        product(a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def machine_peak(devices: list[jax.Device]) -> tuple[float | None, str]:
    """Peak of all devices together, None where it is not known, and where the number comes from.

    CPU devices of one process share its cores, so the product measured on one of them is the peak of all.
    """
    known = peak_flops(devices[0])
    if known:
        return known * len(devices), f"{len(devices)} x {known / 1e12:.0f} TFLOP/s, data sheet"
    if devices[0].platform == "cpu":
        return measured_peak(), "measured: 1024 x 1024 float32 matrix product"
    return None, f"the data sheet of {devices[0].device_kind!r} is not in jaxllm/plan/flops.py"
