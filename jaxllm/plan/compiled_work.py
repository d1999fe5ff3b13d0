"""What a compiled program does on one device, counted in its text: products, and bytes from and to main memory.

XLA's own `cost_analysis` counts the body of a loop once, however often it turns; a model whose layers are scanned has
nearly all of its work in loops. Here each instruction counts as often as it runs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxllm.kernels.stated_work import operations_in
from jaxllm.parallel.hlo import Array, Computation, Instruction, Module, walk
from jaxllm.plan.hardware import Hardware

RULES = {
    "products": "2 operations for each multiplication of every matrix product in the program, recomputation and masked "
    "scores included, and what hand-written kernels state; elementwise work is left out",
    "memory": "operands and results of every kernel that lie in main memory; of a slice what is sliced, of an update "
    "in place what is updated",
}

# These move nothing: names, shapes and waiting.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
_FREE |= {"partition-id", "replica-id", "opt-barrier", "custom-call-noop", "iota", "add-dependency", "domain"}
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "AsyncCollective")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_STATED_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Kernel:
    """One instruction that the device runs as a whole, mostly a fusion of many."""

    name: str
    op_name: str
    """The JAX operation it stands for, as the compiler recorded it."""
    runs: int
    """In one call of the program."""
    flops: float
    """Of matrix products in one run."""
    bytes: float
    """From and to main memory in one run."""

    def seconds(self, hardware: Hardware) -> float:
        """Of all its runs, if each takes the longer of its operations and its bytes."""
        return self.runs * max(self.flops / hardware.flops, self.bytes / hardware.bandwidth)


def kernels(module: Module) -> tuple[Kernel, ...]:
    """Every kernel that multiplies or moves something. Raises ValueError for a loop whose length is not known."""
    found = []
    for run in walk(module, into_fusions=False):
        instruction, computation = run.instruction, module.computations[run.computation]
        moved = bytes_moved(module, computation, instruction)
        fused = instruction.called if instruction.opcode == "fusion" else ()
        flops = product_flops(computation, instruction) + sum(_products_within(module, name) for name in fused)
        if not (moved or flops):
            continue
        if run.trips is None:
            raise ValueError(f"the work of {instruction.name} is unknown: so is the length of its loop")
        found.append(Kernel(instruction.name, _op_name(instruction), run.trips, flops, moved))
    return tuple(found)


def _products_within(module: Module, name: str) -> float:
    computation = module.computations[name]
    total = 0.0
    for instruction in computation.values():
        total += product_flops(computation, instruction)
        if instruction.opcode in ("fusion", "call"):
            total += sum(_products_within(module, called) for called in instruction.called)
    return total


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """Operations of a dot, of a convolution, which is how the TPU's compiler writes a product, or of a hand-written
    kernel as stated; 0 for all else."""
    if instruction.opcode == "dot":
        left = computation[instruction.operands[0]].arrays[0].shape
        contracted = re.search(r"lhs_contracting_dims=\{([0-9,]*)\}", instruction.rest)[1]
        depth = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
        return 2.0 * math.prod(instruction.arrays[0].shape) * depth
    if instruction.opcode == "convolution":
        return _convolution_flops(computation, instruction)
    return float(_stated(instruction) or 0) if instruction.opcode == "custom-call" else 0.0


def _stated(kernel: Instruction) -> int | None:
    """The operations of a hand-written kernel, as it states them or the name of its call does; None if neither does."""
    found = _STATED_FLOPS.search(kernel.rest)
    return int(found[1]) if found else operations_in(_op_name(kernel))


def _op_name(instruction: Instruction) -> str:
    found = _OP_NAME.search(instruction.rest)
    return found[1] if found else ""


def silent_kernels(module: Module) -> tuple[str, ...]:
    """Hand-written kernels that do not state their operations, which are missing in every count, by their origin."""
    calls = (run.instruction for run in walk(module) if 'custom_call_target="tpu_custom_call"' in run.instruction.rest)
    names = (_op_name(call).rsplit("/", 1)[-1] or "unnamed" for call in calls if _stated(call) is None)
    # What works out which rows go to which group has no products.
    return tuple(sorted({name for name in names if name != "ragged-dot-metadata"}))


def _convolution_flops(computation: Computation, instruction: Instruction) -> float:
    """2 x batch x output features x input features x the places where the kernel meets the input, not its padding."""
    left, right = (computation[name].arrays[0].shape for name in instruction.operands[:2])
    left_labels, right_labels, out_labels = _LABELS.search(instruction.rest).groups()
    out = instruction.arrays[0].shape
    window = _WINDOW.search(instruction.rest)
    settings = dict(item.split("=") for item in window[1].split()) if window else {}
    operations = 2.0 * out[out_labels.index("b")] * out[out_labels.index("f")] * right[right_labels.index("i")]
    spatial = sorted(set(right_labels) - set("io"))
    for i, label in enumerate(spatial):
        operations *= _meetings(
            left[left_labels.index(label)],
            right[right_labels.index(label)],
            out[out_labels.index(label)],
            stride=_number(settings, "stride", i, 1),
            low=int(settings["pad"].split("x")[i].split("_")[0]) if "pad" in settings else 0,
            left_dilation=_number(settings, "lhs_dilate", i, 1),
            right_dilation=_number(settings, "rhs_dilate", i, 1),
        )
    return operations


def _meetings(left: int, right: int, out: int, stride: int, low: int, left_dilation: int, right_dilation: int) -> int:
    """Pairs (place of the output, place of the kernel) that read an element of the input along one dimension."""
    reach = (left - 1) * left_dilation
    places = (place * stride + k * right_dilation - low for place in range(out) for k in range(right))
    return sum(0 <= at <= reach and at % left_dilation == 0 for at in places)


def _number(settings: dict[str, str], name: str, i: int, default: int) -> int:
    return int(settings[name].split("x")[i]) if name in settings else default


def bytes_moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that a kernel reads from main memory and writes to it."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")) or any(n in instruction.rest for n in _FREE_CALLS):
        return 0
    if opcode == "fusion":
        return _fusion_bytes(module.computations[instruction.called[0]], computation, instruction)
    operands = [_in_memory(computation[name].arrays) for name in instruction.operands if name in computation]
    result = _in_memory(instruction.arrays)
    if opcode in _SLICES:
        return 2 * result
    if opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if opcode.endswith("-start"):
        # Its result names the operand beside what is written, and it may be a slice of the operand that is read.
        written = instruction.arrays[1:2]
        read = written if opcode == "slice-start" else instruction.arrays[:1]
        from_memory = instruction.arrays[0].space == 0
        return sum(array.bytes for array in read) * from_memory + _in_memory(written)
    return sum(operands) + result


def _fusion_bytes(inner: Computation, outer: Computation, instruction: Instruction) -> int:
    users: dict[str, list[Instruction]] = {}
    for step in inner.values():
        for operand in step.operands:
            users.setdefault(operand, []).append(step)
    parameters = sorted((i for i in inner.values() if i.opcode == "parameter"), key=lambda i: int(i.operands[0]))
    moved = 0
    for parameter, name in zip(parameters, instruction.operands, strict=True):
        if outer[name].arrays and outer[name].arrays[0].space == 0:
            moved += _read_of(parameter, users)
    root = next(i for i in inner.values() if i.is_root)
    ends = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for end, array in zip(ends, instruction.arrays, strict=False):
        if array.space == 0:
            moved += _written(inner, end)
    return moved


def _read_of(parameter: Instruction, users: dict[str, list[Instruction]]) -> int:
    """All of a parameter, or the slices of it where nothing else is used; nothing where it is updated in place."""
    total = 0
    for user in users.get(parameter.name, ()):
        if user.opcode in ("bitcast", "get-tuple-element"):
            total += _read_of(user, users)
        elif user.opcode in _SLICES and user.operands[0] == parameter.name:
            total += sum(array.bytes for array in user.arrays)
        elif user.opcode != "tuple" and not _updates(user, parameter):
            return sum(array.bytes for array in parameter.arrays)
    return min(total, sum(array.bytes for array in parameter.arrays))


def _updates(user: Instruction, parameter: Instruction) -> bool:
    """Whether it writes into a part of that parameter."""
    return user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name


def _written(inner: Computation, end: Instruction) -> int:
    while end.opcode == "bitcast":
        end = inner[end.operands[0]]
    if end.opcode == "parameter":
        return 0
    if end.opcode == "dynamic-update-slice":
        return sum(array.bytes for array in inner[end.operands[1]].arrays)
    return sum(array.bytes for array in end.arrays)


def _in_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in arrays if array.space == 0)
