"""What devices can do at best, from their makers' data sheets; a CPU is measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxllm.config import did_you_mean


@dataclass(frozen=True)
class Hardware:
    """One device."""

    name: str
    """As JAX calls it (`device_kind`), or the start of that."""
    flops: float
    """Dense bfloat16 operations a second, accumulated in float32."""
    memory: float
    """Bytes of its memory."""
    bandwidth: float
    """Bytes a second from and to that memory."""
    source: str = "data sheet"
    """Where the numbers come from."""

    @property
    def balance(self) -> float:
        """Operations in the time of one byte: what does fewer waits for memory."""
        return self.flops / self.bandwidth


HARDWARE: dict[str, Hardware] = {
    "a100-40": Hardware("NVIDIA A100-SXM4-40GB", 312e12, 40e9, 1555e9),
    "a100": Hardware("NVIDIA A100", 312e12, 80e9, 2039e9),
    "h100": Hardware("NVIDIA H100", 989e12, 80e9, 3350e9),
    "h200": Hardware("NVIDIA H200", 989e12, 141e9, 4800e9),
    "b200": Hardware("NVIDIA B200", 2250e12, 180e9, 8000e9),
    "rtx4090": Hardware("NVIDIA GeForce RTX 4090", 165.2e12, 24e9, 1008e9),
    "rtx3090": Hardware("NVIDIA GeForce RTX 3090", 71e12, 24e9, 936e9),
    "v4": Hardware("TPU v4", 275e12, 32 * 2**30, 1228e9),
    "v5e": Hardware("TPU v5 lite", 197e12, 16 * 2**30, 819e9),
    "v5p": Hardware("TPU v5", 459e12, 95 * 2**30, 2765e9),
    "v6e": Hardware("TPU v6 lite", 918e12, 32 * 2**30, 1640e9),
    "tpu7x": Hardware("TPU7x", 2307e12, 192 * 2**30, 7380e9),
}
# Other names that JAX has for some of them.
ALIASES = {"TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v6e": "v6e"}


def hardware(name: str) -> Hardware:
    """The device of that name; "cpu" is this machine, measured. Raises ValueError for one that is not in the table."""
    if name == "cpu":
        return measured_cpu()
    if name not in HARDWARE:
        known = (*HARDWARE, "cpu")
        raise ValueError(f"unknown hardware {name!r}{did_you_mean(name, known)}\nknown: {', '.join(known)}")
    return HARDWARE[name]


def hardware_of(device_kind: str) -> Hardware | None:
    """The entry for a device as JAX names it, None where there is none."""
    names = {entry.name: entry for entry in HARDWARE.values()} | {k: HARDWARE[v] for k, v in ALIASES.items()}
    matches = [name for name in names if device_kind.startswith(name)]
    return names[max(matches, key=len)] if matches else None


def measured_cpu(seconds: float = 0.5) -> Hardware:
    """This machine's processors: a large float32 matrix product and a large copy, the best of some."""
    elements = 2**24
    copy = jax.jit(lambda x: x + 1)
    bandwidth = 8 * elements / _quickest(copy, jnp.ones((elements,), jnp.float32), seconds)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(
        "cpu",
        measured_product(seconds),
        memory,
        bandwidth,
        "measured: 1024 x 1024 float32 matrix product, 64 MiB written anew",
    )


def measured_product(seconds: float = 0.5) -> float:
    """What a large float32 matrix product reaches on this machine, in operations a second: the yardstick for MFU on a
    CPU."""
    size = 1024
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / _quickest(product, jnp.ones((size, size), jnp.float32), seconds)


def together(one: Hardware, devices: int) -> Hardware:
    """Several devices as one, as if nothing had to travel between them."""
    return replace(one, flops=one.flops * devices, memory=one.memory * devices, bandwidth=one.bandwidth * devices)


def _quickest(function, argument: jax.Array, seconds: float) -> float:
    function(argument).block_until_ready()
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        function(argument).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best
