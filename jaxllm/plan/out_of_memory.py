"""What the TPU's compiler says when a program does not fit, as numbers and advice."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxllm.training.experiment import Experiment

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"([0-9.]+)([KMGT]?)B?"
# Either of two passes may give up: the first before any buffer has its place, the second with a list of them.
_EARLY = re.compile(rf"memory required for [\w ]+ \({_AMOUNT}\) exceeds available HBM \({_AMOUNT}\)")
_LATE = re.compile(rf"Used {_AMOUNT} of {_AMOUNT} hbm")
_BUFFER = re.compile(
    rf"Size: {_AMOUNT}\n(?:\s+Operator: op_name=\"(?P<op>[^\"]*)\".*\n)?(?:\s+Shape: (?P<shape>\S+).*\n)?", re.MULTILINE
)


@dataclass(frozen=True)
class Buffer:
    """One of the largest things in memory when it ran out."""

    bytes: int
    shape: str
    op_name: str


class OutOfMemory(ValueError):
    """A program that does not fit into the memory of the devices it was compiled for."""

    def __init__(self, needed: int, available: int, buffers: tuple[Buffer, ...], advice: tuple[str, ...]):
        self.needed, self.available, self.buffers, self.advice = needed, available, buffers, advice
        over = needed - available
        lines = [
            f"the step does not fit: it needs {_gib(needed)} on each device, which has {_gib(available)} for programs; "
            f"{_gib(over)} too much"
        ]
        if buffers:
            lines.append("largest buffers:")
            lines += [f"  {_gib(b.bytes):>10}  {b.shape}  {b.op_name}".rstrip() for b in buffers]
        if advice:
            lines.append("what helps:")
            lines += [f"  {line}" for line in advice]
        super().__init__("\n".join(lines))


def out_of_memory(message: str, experiment: Experiment, batch_shards: int) -> OutOfMemory | None:
    """The error that a compiler's message stands for; None where it is about something else."""
    found = _LATE.search(message) or _EARLY.search(message)
    if found is None:
        return None
    needed, available = _bytes(found[1], found[2]), _bytes(found[3], found[4])
    buffers = _buffers(message)
    return OutOfMemory(needed, available, buffers, advice(experiment, batch_shards))


def advice(experiment: Experiment, batch_shards: int) -> tuple[str, ...]:
    """What makes a step smaller, the cheapest first."""
    training, mesh = experiment.training, experiment.mesh
    rows = training.batch_size // training.accumulation // batch_shards
    lines = []
    if training.remat != "full":
        lines.append(f"--training.remat=full keeps only the input of each layer; it is {training.remat}")
    if rows > 1:
        lines.append(
            f"--training.accumulation={training.accumulation * rows}: each device holds {rows} rows of a microbatch at "
            "once, and one is enough"
        )
    scores = score_bytes(experiment)
    if scores > 2**30:
        lines.append(
            f"attention in blocks, which stores no scores: of every token with every other they are {_gib(scores)} "
            "for one row of one layer in float32"
        )
    lines.append(f"--mesh.tensor={2 * mesh.tensor}: halves heads, MLP and vocabulary on a device; it is {mesh.tensor}")
    if mesh.data != 1:
        lines.append("--mesh.fsdp instead of --mesh.data: shards parameters and optimizer state over more devices")
    lines.append(f"--model.context_length={experiment.model.context_length // 2}: shorter rows")
    lines.append("a larger slice; jaxllm plan --search tries the first three by itself")
    return tuple(lines)


def score_bytes(experiment: Experiment) -> int:
    """What plain attention stores of one row in one layer on one device, where no window bounds what it sees."""
    mixers = [block.mixer for block in experiment.model.blocks()]
    heads = [mixer.num_heads for mixer in mixers if hasattr(mixer, "num_heads") and not getattr(mixer, "window", 0)]
    return 4 * max(heads, default=0) * experiment.model.context_length**2 // max(1, experiment.mesh.tensor)


def _buffers(message: str, most: int = 5) -> tuple[Buffer, ...]:
    listed = message.split("Largest program allocations in hbm", 1)[-1] if "Largest program" in message else ""
    found = []
    for match in _BUFFER.finditer(listed):
        op_name = re.sub(r"\b(?:jit\(\w+\)|while|body|closed_call|checkpoint)/", "", match["op"] or "")
        found.append(Buffer(_bytes(match[1], match[2]), re.sub(r"\{.*", "", match["shape"] or ""), op_name))
    return tuple(found[:most])


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


def _gib(amount: float) -> str:
    return f"{amount / 2**30:,.2f} GiB"
