"""A list of layers as the few that repeat, since what is scanned over is compiled once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeVar

from jaxllm.models.config import AttentionConfig, Block, MLPConfig, ModelConfig

Mixer = TypeVar("Mixer")


def first(config: ModelConfig, kind: type[Mixer]) -> Mixer:
    """That of the first layer that has one of this kind. Raises ValueError if none has."""
    for block in config.blocks():
        for mixer in (block.mixer, block.channel):
            if isinstance(mixer, kind):
                return mixer
    raise ValueError(f"no layer has a {kind.__name__.removesuffix('Config')}")


def arranged(blocks: Sequence[Block]) -> dict[str, Any]:
    """The fields of a ModelConfig that say these layers: prologue and pattern, with the commonest attention and MLP as
    the model's own."""
    attention = _commonest([block.mixer for block in blocks], AttentionConfig)
    mlp = _commonest([block.channel for block in blocks], MLPConfig)
    named = tuple(
        Block(
            "attention" if block.mixer == attention else block.mixer,
            "mlp" if block.channel == mlp else block.channel,
        )
        for block in blocks
    )
    own = {name: mixer for name, mixer in (("attention", attention), ("mlp", mlp)) if mixer is not None}
    prologue, period = min(_ways(named), key=lambda way: _compiled(named, *way))
    return {"prologue": named[:prologue], "pattern": named[prologue : prologue + period], **own}


def first_alone(blocks: list[Block]) -> dict[str, Any]:
    """The fields of a ModelConfig whose first layer is a segment of its own."""
    if len(blocks) == 1:
        return {"prologue": tuple(blocks), "mlp": blocks[0].channel}
    rest = arranged(blocks[1:])
    named = [Block("attention" if b.mixer == rest["attention"] else b.mixer) for b in blocks]
    prologue, pattern = (named[0], *rest["prologue"]), rest["pattern"]
    if prologue[1:] and prologue[1] == named[0]:
        prologue, pattern = (named[0],), tuple(named[1:])
    return rest | {"prologue": prologue, "pattern": pattern}


def _commonest(mixers: list, kind: type) -> Any:
    counted = Counter(mixer for mixer in mixers if isinstance(mixer, kind))
    return counted.most_common(1)[0][0] if counted else None


def _ways(blocks: tuple[Block, ...]):
    """Lengths of a prologue, and of the shortest pattern that repeats after it."""
    for prologue in range(len(blocks)):
        rest = blocks[prologue:]
        for period in range(1, len(rest) + 1):
            if all(block == rest[i % period] for i, block in enumerate(rest)):
                yield prologue, period
                break


def _compiled(blocks: tuple[Block, ...], prologue: int, period: int) -> tuple[int, int]:
    """How many layers the compiler sees; of equal ways, the shorter prologue."""
    runs = len(list(groupby(blocks[:prologue])))
    return runs + period + (len(blocks) - prologue) % period, prologue
