"""TPU slices: `v5p:8x8x8` as the accelerator types, labels, hosts and chips that each interface wants.

Sources: "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e", "TPU software versions" and "Plan TPUs in GKE" in the Cloud TPU
documentation, and the table of xpk 1.16.0.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Slices smaller than a cube of 4x4x4; larger ones are made of whole cubes.
PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


@dataclass(frozen=True)
class Generation:
    """One kind of TPU."""

    name: str
    """As in `--tpu NAME:TOPOLOGY`."""
    accelerator: str
    """What the accelerator type begins with, before the count."""
    cores: int
    """How many the accelerator type counts for a chip: TensorCores where a chip has two."""
    label: str
    """The GKE node label cloud.google.com/gke-tpu-accelerator."""
    flat: bool
    """Whether topologies have two dimensions."""
    chips: int
    """Of the largest slice."""
    runtime: str | None
    """The Cloud TPU software version for JAX; None where only GKE offers this kind."""


GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation("v4", "v4", 2, "tpu-v4-podslice", False, 4096, "tpu-ubuntu2204-base"),
        Generation("v5e", "v5litepod", 1, "tpu-v5-lite-podslice", True, 256, "v2-alpha-tpuv5-lite"),
        Generation("v5p", "v5p", 2, "tpu-v5p-slice", False, 6144, "v2-alpha-tpuv5"),
        Generation("v6e", "v6e", 1, "tpu-v6e-slice", True, 256, "v2-alpha-tpuv6e"),
        Generation("tpu7x", "tpu7x", 2, "tpu7x", False, 9216, None),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips that are wired to each other."""

    generation: Generation
    shape: tuple[int, ...]

    @property
    def topology(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def accelerator_type(self) -> str:
        """As the Cloud TPU interface counts: v5p-1024 has 512 chips."""
        return f"{self.generation.accelerator}-{self.chips * self.generation.cores}"

    @property
    def chips_per_host(self) -> int:
        """Machines have four chips, but there are flat ones of one and of eight for the slices that fit on them."""
        return min(self.chips, 8) if self.generation.flat and self.chips <= 8 else 4

    @property
    def hosts(self) -> int:
        return max(1, self.chips // self.chips_per_host)

    @property
    def usual(self) -> Slice:
        """What the accelerator type alone gives: of its chip count, the shape nearest to a cube."""
        return Slice(self.generation, min(_shapes(self.generation, self.chips), key=sum))

    def __str__(self) -> str:
        return f"{self.generation.name}:{self.topology}"


def parse_slice(text: str) -> Slice:
    """The slice of `NAME:TOPOLOGY`. Raises ValueError for one that does not exist, naming those near it."""
    name, colon, topology = text.partition(":")
    generation = GENERATIONS.get(name)
    if not colon or generation is None:
        raise ValueError(_unknown(text, name, generation))
    shape = tuple(map(int, topology.split("x"))) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", topology) else ()
    chips = math.prod(shape)
    if shape not in _shapes(generation, chips):
        raise ValueError(f"there is no TPU slice {text}: {_rule(generation)}{_nearest(generation, chips)}")
    return Slice(generation, shape)


def _shapes(generation: Generation, chips: int) -> list[tuple[int, ...]]:
    """Every shape that has so many chips."""
    listed = [tuple(map(int, shape.split("x"))) for shape in (FLAT if generation.flat else PARTS_OF_A_CUBE)]
    shapes = [shape for shape in listed if math.prod(shape) == chips]
    cubes, odd = divmod(chips, 64)
    if not generation.flat and not odd and chips <= generation.chips:
        for a in range(1, round(cubes ** (1 / 3)) + 1):
            for b in range(a, math.isqrt(cubes // a) + 1):
                if cubes % (a * b) == 0:
                    shapes.append((4 * a, 4 * b, 4 * (cubes // (a * b))))
    return shapes


def _rule(generation: Generation) -> str:
    if generation.flat:
        return f"{generation.name} comes as {', '.join(FLAT)}"
    return (
        f"{generation.name} comes as {', '.join(PARTS_OF_A_CUBE)}, and larger as AxBxC, multiples of 4 with "
        f"A <= B <= C, up to {generation.chips} chips"
    )


def _nearest(generation: Generation, chips: int) -> str:
    shapes = _shapes(generation, chips)
    if not shapes:
        return ""
    return f"; {chips} chips are {' or '.join(str(Slice(generation, shape)) for shape in shapes)}"


def _unknown(text: str, name: str, generation: Generation | None) -> str:
    counted = re.fullmatch(r"(?:tpu-)?(v5litepod|v5e|v4|v5p|v6e|tpu7x)-(\d+)", text)
    if counted:
        generation = next(g for g in GENERATIONS.values() if counted[1] in (g.name, g.accelerator))
        shapes = _shapes(generation, int(counted[2]) // generation.cores)
        if shapes:
            usual = Slice(generation, min(shapes, key=sum))
            return f"a TPU slice is named by its topology: write {usual}, of {usual.chips} chips, for {text}"
    if generation is not None:
        return f"which topology of {name}? Write {name}:TOPOLOGY; {_rule(generation)}"
    near = difflib.get_close_matches(name, GENERATIONS, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown kind of TPU {name!r}{hint}; known: {', '.join(GENERATIONS)}, as in v5p:4x4x4"
