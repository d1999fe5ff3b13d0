"""What a compiled program sends between devices, read off its HLO text.

An operation inside a loop runs as often as the loop turns; its depth says in how many loops it stands. The CPU's
compiler makes no reduce-scatter: there it is an all-reduce that each device takes its slice of. The TPU's may turn a
gather or a scatter beside a matrix product into a loop of permutations around a ring, so that both go on at once.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from jax.sharding import Mesh

from jaxllm.parallel.hlo import Array, Instruction, Module, Run, parse_module, walk
from jaxllm.parallel.replica_groups import Groups, groups_along, parse_groups

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CHAIN = re.compile(r'chain_id="(\d+)"')


@dataclass(frozen=True)
class Collective:
    """One communicating operation of a program. The compiler may carry several arrays in one."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    """Type and shape of each result on one device."""
    groups: Groups
    """Devices that talk to each other, as positions in the mesh; (source, target) pairs for a permutation."""
    depth: int
    """Loops around it."""
    trips: int | None
    """How often it runs in one call of the program; None inside a loop whose length the compiler does not know."""
    op_name: str
    """The JAX operation it serves, as the compiler recorded it."""

    @property
    def bytes(self) -> int:
        """Bytes each device takes part with in one run: of the result, or of the larger operand of a reduce-scatter."""
        size = sum(Array(dtype, shape).bytes for dtype, shape in self.arrays)
        return size * (self.group_size if self.kind == "reduce-scatter" else 1)

    @property
    def group_size(self) -> int:
        """Devices that talk to each other."""
        return len(next(iter(self.groups)))

    @property
    def sent(self) -> float:
        """Bytes each device must send at least in one run, with N devices a group: all of them for a permutation,
        (N-1)/N for a gather, a scatter or an exchange, and twice that for an all-reduce."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return self.bytes
        share = (self.group_size - 1) / self.group_size
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)

    def over(self, mesh: Mesh) -> tuple[str, ...] | None:
        """The mesh axes it runs along, in order; None for groups that are no axes' own."""
        axes = _axes_of(self.kind, self.groups, mesh.devices.shape)
        return None if axes is None else tuple(mesh.axis_names[i] for i in axes)


def find_collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Every collective of a compiled program, an asynchronous one once; in a computation called twice, once per call.

    The TPU's compiler lets a collective run on behind several kernels and names it in each: it is one. Raises
    ValueError where the text has no entry computation or names groups of devices in an unknown way.
    """
    return collectives_of(parse_module(hlo_text))


def collectives_of(module: Module) -> tuple[Collective, ...]:
    """The same of a program that is parsed already."""
    found: list[Collective] = []
    chains: dict[str, int] = {}
    for run in walk(module):
        collective = _collective(run, module)
        if collective is None:
            continue
        chain = _CHAIN.search(run.instruction.rest)
        if chain is None:
            found.append(collective)
        elif chain[1] not in chains:
            chains[chain[1]] = len(found)
            found.append(collective)
        elif collective.depth < found[chains[chain[1]]].depth:
            # A link of the chain may stand in a loop that the collective outlasts.
            found[chains[chain[1]]] = collective
    return tuple(found)


def count_collectives(hlo_text: str) -> Counter[tuple[str, int]]:
    """How many collectives of each (kind, loop depth) the program's text holds, not how often they run."""
    return Counter((c.kind, c.depth) for c in find_collectives(hlo_text))


def collective_bytes(collectives: Iterable[Collective]) -> Counter[str]:
    """Bytes by kind in one call of the program, turns of the loops included.

    Raises ValueError for a collective in a loop whose length is not known.
    """
    total: Counter[str] = Counter()
    for c in collectives:
        if c.trips is None:
            raise ValueError(f"the bytes of the {c.kind} of {c.op_name!r} are unknown: so is the length of its loop")
        total[c.kind] += c.bytes * c.trips
    return total


def _collective(run: Run, module: Module) -> Collective | None:
    instruction = run.instruction
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = _results(instruction, started=instruction.opcode != kind and kind != "all-reduce")
    groups = parse_groups(instruction.rest, module.devices)
    if kind == "all-reduce" and run.computation.startswith("all-reduce-scatter"):
        # How the TPU's compiler writes one: a kernel that reduces and of which each device takes its slice.
        kind = "reduce-scatter"
        root = next(i for i in module.computations[run.computation].values() if i.is_root)
        arrays = tuple((array.dtype, array.shape) for array in root.arrays)
    op_name = _OP_NAME.search(instruction.rest)
    return Collective(kind, arrays, groups, run.depth, run.trips, op_name[1] if op_name else "")


def _results(instruction: Instruction, started: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The arrays of an instruction's result; a started operation lists its operands, its results and scalar handles."""
    arrays = [(array.dtype, array.shape) for array in instruction.arrays]
    if started:
        arrays = [array for array in arrays if array != ("u32", ())]
        arrays = arrays[len(arrays) // 2 :]
    return tuple(arrays)


@lru_cache(maxsize=1024)
def _axes_of(kind: str, groups: Groups, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Which axes of a grid of devices they run along; for a permutation the fewest that hold every pair."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    axes = [i for i, size in enumerate(shape) if size > 1]
    if kind == "collective-permute":
        places = np.stack(np.unravel_index(np.array(sorted(groups)), shape))
        return tuple(i for i in axes if (places[i, :, 0] != places[i, :, 1]).any())
    same = lambda groups: {frozenset(group) for group in groups}  # noqa: E731
    choices = (choice for n in range(len(axes) + 1) for choice in combinations(axes, n))
    return next((c for c in choices if same(groups_along(grid, list(c))) == same(groups)), None)
