"""What a compiled program sends between devices, read off its HLO text.

The text is what `jax.jit(f).lower(...).compile().as_text()` gives. A `lax.scan` is a while loop in it, so an operation
inside one runs as often as the loop turns; its depth says in how many loops it stands. The CPU's compiler makes no
reduce-scatter: there it is an all-reduce that each device takes its slice of.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jax.sharding import Mesh

from jaxllm.parallel.replica_groups import Groups, groups_along, integers, parse_groups

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][a-z\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+(?:[a-z][a-z0-9]*)?|pred)\[([0-9,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


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
        bits = sum(_bits(dtype) * math.prod(shape) for dtype, shape in self.arrays)
        return math.ceil(bits / 8) * (len(next(iter(self.groups))) if self.kind == "reduce-scatter" else 1)

    def over(self, mesh: Mesh) -> tuple[str, ...] | None:
        """The mesh axes it runs along, in order; None for a permutation and for groups that are no axes' own."""
        if self.kind == "collective-permute":
            return None
        grid = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
        axes = [i for i, size in enumerate(grid.shape) if size > 1]
        choices = (list(choice) for n in range(len(axes) + 1) for choice in combinations(axes, n))
        same = lambda groups: {frozenset(group) for group in groups}  # noqa: E731
        found = (choice for choice in choices if same(groups_along(grid, choice)) == same(self.groups))
        return next((tuple(mesh.axis_names[i] for i in choice) for choice in found), None)


def find_collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Every collective of a compiled program, an asynchronous one once; in a computation called twice, once per call.

    Raises ValueError where the text has no entry computation or names groups of devices in an unknown way.
    """
    computations, entry, devices = _parse(hlo_text)
    return tuple(_walk(computations, entry, depth=0, trips=1, devices=devices))


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


def _parse(hlo_text: str) -> tuple[dict[str, list[str]], str, int]:
    """Instruction lines by computation, the name of the entry computation, and the number of devices."""
    computations: dict[str, list[str]] = {}
    entry, current = None, None
    for line in hlo_text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = computations.setdefault(header[1], [])
                entry = header[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        else:
            current.append(line.strip())
    if entry is None:
        raise ValueError("this is no HLO text: it has no ENTRY computation (expected compiled.as_text())")
    first_line = hlo_text.split("\n", 1)[0]
    sizes = [int(n) for n in re.findall(r"(?:num_partitions|replica_count)=(\d+)", first_line)]
    return computations, entry, math.prod(sizes)


def _walk(computations, name: str, depth: int, trips: int | None, devices: int) -> Iterator[Collective]:
    for line in computations[name]:
        instruction = _INSTRUCTION.match(line)
        if instruction is None or instruction[2].endswith(("-update", "-done")):
            continue
        result, opcode, rest = instruction.groups()
        kind = opcode.removesuffix("-start")
        if kind in KINDS:
            arrays = _results(result, started=opcode != kind and kind != "all-reduce")
            op_name = _OP_NAME.search(rest)
            groups = parse_groups(rest, devices)
            yield Collective(kind, arrays, groups, depth, trips, op_name[1] if op_name else "")
            continue
        inner_depth, inner_trips = depth, trips
        if opcode == "while":
            known = _TRIPS.search(rest)
            inner_depth, inner_trips = depth + 1, trips * int(known[1]) if known and trips is not None else None
        branches = _BRANCHES.search(rest)
        called = _CALLED.findall(rest) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])
        for inner in called:
            yield from _walk(computations, inner, inner_depth, inner_trips, devices)


def _results(text: str, started: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The arrays of an instruction's result; a started operation lists its operands, its results and scalar handles."""
    arrays = [(dtype, integers(shape)) for dtype, shape in _ARRAY.findall(text)]
    if started:
        arrays = [array for array in arrays if array != ("u32", ())]
        arrays = arrays[len(arrays) // 2 :]
    return tuple(arrays)


def _bits(dtype: str) -> int:
    """Bits of an element, which an HLO type carries in its name (f32, bf16, f8e4m3fn)."""
    return 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
