"""Compiled programs as text: their computations and instructions, and how often each of these runs.

The text is what `jax.jit(f).lower(...).compile().as_text()` gives. A `lax.scan` is a while loop in it. The CPU's
compiler writes down how often a loop turns; the TPU's does not, so there it is worked out from the loop's counter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]+(?:[a-z][a-z0-9]*)?|pred)\[([0-9,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INDEX = re.compile(r"\bindex=(\d+)")
_SPACE = re.compile(r"S\((\d+)\)")
_COUNT_COMMENT = re.compile(r"/\*index=\d+\*/")


@dataclass(frozen=True)
class Array:
    """A result of an instruction, or one of several."""

    dtype: str
    shape: tuple[int, ...]
    space: int = 0
    """Where it lies: 0 is the device's main memory, the others are smaller ones on the chip."""

    @property
    def bytes(self) -> int:
        return math.ceil(bits(self.dtype) * math.prod(self.shape) / 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    result: str
    """Type of the result as text; that of a tuple in parentheses."""
    opcode: str
    rest: str
    """Operands and attributes as text."""
    is_root: bool

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the operands; of a constant or a parameter its value or number."""
        words = self.rest.split(")", 1)[0].split(", ")
        return tuple(word.rsplit(" ", 1)[-1].lstrip("%") for word in words if word)

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        return read_arrays(self.result)

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs."""
        branches = _BRANCHES.search(self.rest)
        return (*_CALLED.findall(self.rest), *(re.findall(r"[\w.\-]+", branches[1]) if branches else ()))


Computation = dict[str, Instruction]


@dataclass(frozen=True)
class Module:
    """A program: instructions by name, in computations by name."""

    computations: dict[str, Computation]
    entry: str
    devices: int
    """How many it runs on."""


@dataclass(frozen=True)
class Run:
    """An instruction where it runs."""

    instruction: Instruction
    computation: str
    depth: int
    """Loops around it."""
    trips: int | None
    """How often it runs in one call of the program; None inside a loop whose length is not known."""


def parse_module(text: str) -> Module:
    """Raises ValueError where the text is no HLO, or has no entry computation."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = computations.setdefault(header[1], {})
                entry = header[1] if line.startswith("ENTRY") else entry
        elif line == "}" or line.startswith("}, execution_thread="):
            current = None
        elif not line.startswith("  ") and current:  # a kernel's metadata may be written in several lines
            name = next(reversed(current))
            current[name] = replace(current[name], rest=f"{current[name].rest} {line}")
        elif found := _INSTRUCTION.match(_COUNT_COMMENT.sub("", line.strip())):
            root, name, result, opcode, rest = found.groups()
            current[name] = Instruction(name, result, opcode, rest, bool(root))
    if entry is None:
        raise ValueError("this is no HLO text: it has no ENTRY computation (expected compiled.as_text())")
    sizes = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
    return Module(computations, entry, math.prod(map(int, sizes)))


def walk(module: Module, *, into_fusions: bool = True) -> Iterator[Run]:
    """Every instruction with how often it runs; in a computation called twice, once per call.

    Without `into_fusions`, what stands in a fused kernel is left out: the kernel is one instruction.
    """
    yield from _walk(module, module.entry, 0, 1, into_fusions)


def _walk(module: Module, name: str, depth: int, trips: int | None, into_fusions: bool) -> Iterator[Run]:
    for instruction in module.computations[name].values():
        yield Run(instruction, name, depth, trips)
        if instruction.opcode.endswith(("-update", "-done")) or (instruction.opcode == "fusion" and not into_fusions):
            continue
        inner_depth, inner_trips = depth, trips
        if instruction.opcode == "while":
            turns = trip_count(module, name, instruction)
            inner_depth, inner_trips = depth + 1, None if turns is None or trips is None else turns * trips
        for called in instruction.called:
            yield from _walk(module, called, inner_depth, inner_trips, into_fusions)


def trip_count(module: Module, computation: str, loop: Instruction) -> int | None:
    """How often a while loop turns: as the compiler says, else from a counter that starts at a constant, grows by a
    constant and is compared with one; None where there is no such counter."""
    if known := _TRIPS.search(loop.rest):
        return int(known[1])
    called = dict(re.findall(r"\b(body|condition)=%?([\w.\-]+)", loop.rest))
    condition, body = (module.computations[called[part]] for part in ("condition", "body"))
    test = _root(condition)
    if test.opcode != "compare" or "direction=LT" not in test.rest:
        return None
    counter = _through_copies(condition, test.operands[0])
    stop = _constant(condition, test.operands[1])
    if counter.opcode != "get-tuple-element" or stop is None:
        return None
    place = int(_INDEX.search(counter.rest)[1])
    state, turned = module.computations[computation].get(loop.operands[0]), _root(body)
    if state is None or state.opcode != "tuple" or turned.opcode != "tuple":
        return None
    start = _constant(module.computations[computation], state.operands[place])
    grown = _through_copies(body, turned.operands[place])
    steps = [_constant(body, operand) for operand in grown.operands] if grown.opcode == "add" else []
    steps = [step for step in steps if step is not None]
    if start is None or len(steps) != 1 or steps[0] < 1:
        return None
    return max(0, math.ceil((stop - start) / steps[0]))


def read_arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names: f32[8,128]{1,0:T(8,128)S(1)}, or a tuple of them."""
    found = []
    for dtype, shape, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        found.append(Array(dtype, tuple(int(n) for n in shape.split(",") if n), int(space[1]) if space else 0))
    return tuple(found)


def bits(dtype: str) -> int:
    """Bits of an element, which an HLO type carries in its name (f32, bf16, f8e4m3fn)."""
    return 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _through_copies(computation: Computation, name: str) -> Instruction:
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast"):
        instruction = computation[instruction.operands[0]]
    return instruction


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _through_copies(computation, name)
    value = instruction.operands[0] if instruction.opcode == "constant" and instruction.operands else ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None
