"""What a compiled program sends between devices, read off its HLO text.

The text is what `jax.jit(f).lower(...).compile().as_text()` gives. A `lax.scan` is a while loop in it, so an operation inside one
runs as often as the loop turns; its depth says in how many loops it stands. The CPU's compiler has no reduce-scatter: there it
is an all-reduce that each device takes its slice of.
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
_IOTA_GROUPS = re.compile(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")
_LISTED_GROUPS = re.compile(r"replica_groups=\{((?:\{[0-9,]*\},?)*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{[0-9,]*\},?)*)\}")


@dataclass(frozen=True)
class Collective:
    """One communicating operation of a program. The compiler may carry several arrays in one."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    """Type and shape of each result on one device."""
    groups: frozenset[tuple[int, ...]]
    """Devices that talk to each other, as positions in the mesh; (source, target) pairs for a permutation."""
    depth: int
    """Loops around it."""
    trips: int | None
    """How often it runs in one call of the program; None inside a loop whose length the compiler does not know."""
    op_name: str
    """The JAX operation it serves, as the compiler recorded it."""

    @property
    def bytes(self) -> int:
        """Size of what each device ends up with, once; for a reduce-scatter of what it starts from, as for an all-reduce."""
        size = sum(_itemsize(dtype) * math.prod(shape) for dtype, shape in self.arrays)
        return size * len(next(iter(self.groups))) if self.kind == "reduce-scatter" else size

    def over(self, mesh: Mesh) -> tuple[str, ...] | None:
        """The mesh axes it runs along, in the mesh's order; None for a permutation and for groups that are no axes' own."""
        if self.kind == "collective-permute":
            return None
        axes = [name for name in mesh.axis_names if mesh.shape[name] > 1]
        choices = (choice for n in range(len(axes) + 1) for choice in combinations(axes, n))
        groups = {tuple(sorted(group)) for group in self.groups}
        return next((choice for choice in choices if _groups_along(mesh, choice) == groups), None)


def find_collectives(hlo_text: str) -> tuple[Collective, ...]:
    """Every collective of a compiled program, in the order of the text's computations, asynchronous pairs counted once.

    One that a computation called from two places holds appears once per place. Raises ValueError where the text holds no
    entry computation or writes the groups of devices in a way that is not known here.
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
            raise ValueError(f"a loop of unknown length holds the {c.kind} of {c.op_name!r}, so its bytes cannot be added up")
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
        if instruction is None:
            continue
        result, opcode, rest = instruction.groups()
        kind = opcode.removesuffix("-start")
        if kind in KINDS:
            yield _collective(kind, opcode != kind, result, rest, depth, trips, devices)
            continue
        inner_depth, inner_trips = depth, trips
        if opcode == "while":
            known = _TRIPS.search(rest)
            inner_depth, inner_trips = depth + 1, trips * int(known[1]) if known and trips is not None else None
        branches = _BRANCHES.search(rest)
        called = _CALLED.findall(rest) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])
        for inner in called:
            yield from _walk(computations, inner, inner_depth, inner_trips, devices)


def _collective(kind: str, started: bool, result: str, rest: str, depth: int, trips: int | None, devices: int) -> Collective:
    arrays = tuple((dtype, _integers(shape)) for dtype, shape in _ARRAY.findall(result))
    if started and kind == "collective-permute":
        arrays = arrays[len(arrays) // 2 - 1 : len(arrays) // 2] if len(arrays) > 2 else arrays[1:]
    elif started and kind != "all-reduce":
        # A started all-gather names its operands, then its results.
        arrays = arrays[len(arrays) // 2 :]
    op_name = _OP_NAME.search(rest)
    return Collective(kind, arrays, _groups(kind, rest, devices), depth, trips, op_name[1] if op_name else "")


def _groups(kind: str, rest: str, devices: int) -> frozenset[tuple[int, ...]]:
    listed = (_PAIRS if kind == "collective-permute" else _LISTED_GROUPS).search(rest)
    if listed:
        groups = frozenset(_integers(group) for group in re.findall(r"\{([0-9,]*)\}", listed[1]))
        return groups or frozenset([tuple(range(devices))])
    iota = _IOTA_GROUPS.search(rest)
    if iota is None:
        raise ValueError(f"the groups of this {kind} are written in an unknown way: {rest}")
    shape, reshape, permutation = (_integers(part or "") for part in iota.groups())
    ids = np.arange(math.prod(reshape)).reshape(reshape)
    ids = ids.transpose(permutation) if permutation else ids
    return frozenset(tuple(group) for group in ids.reshape(shape).tolist())


def _groups_along(mesh: Mesh, axes: tuple[str, ...]) -> set[tuple[int, ...]]:
    ids = np.arange(mesh.devices.size).reshape(mesh.devices.shape)
    along = [mesh.axis_names.index(axis) for axis in axes]
    ids = np.moveaxis(ids, along, range(-len(along), 0)) if along else ids[..., None]
    return {tuple(sorted(group)) for group in ids.reshape(-1, math.prod(mesh.shape[axis] for axis in axes)).tolist()}


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)


def _itemsize(dtype: str) -> float:
    """Bytes of an element: the digits of an HLO type are its bits."""
    return 1 if dtype == "pred" else int(re.search(r"\d+", dtype)[0]) / 8
