"""A GGUF file: its settings, and its tensors as views that read nothing until they are decoded.

After the settings come the tensors' descriptions (name, dimensions from the fastest to the slowest, type, place), then,
from the next multiple of the alignment on, the data. Nothing of that is trusted: it is checked against the size of the
file before a byte of data is touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from jaxllm.interop.gguf.block_tensor import BlockTensor
from jaxllm.interop.gguf.block_types import BlockType, block_type
from jaxllm.interop.gguf.joined_parts import JoinedParts, parts_of
from jaxllm.tokenizers.formats.gguf_metadata import MAGIC, Cursor, read_settings

ALIGNMENT_KEY, DEFAULT_ALIGNMENT = "general.alignment", 32
_MOST_AXES = 4  # of a tensor in ggml
_SMALLEST_DESCRIPTION = 24  # bytes: an empty name, no dimension


class GGUFFile(NamedTuple):
    """What a file holds."""

    path: Path
    """The file, or the first of its parts."""
    settings: dict[str, Any]
    tensors: dict[str, BlockTensor]


class _Description(NamedTuple):
    name: str
    kind: BlockType
    shape: tuple[int, ...]
    begin: int

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape) // self.kind.block_size * self.kind.block_bytes


def is_gguf(path: Path) -> bool:
    """Whether a file begins as these do."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(source: str | PathLike[str] | Sequence[str | PathLike[str]]) -> GGUFFile:
    """The file, or the parts that joined in order are one: as a list, or MODEL.gguf.part00 with the others beside it.

    Raises ValueError, naming file and tensor, for what is damaged, not whole, or of a type that is not supported.
    """
    paths = parts_of(source)
    path, data = paths[0], JoinedParts(paths)
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is no GGUF file: it doesn't begin with {MAGIC!r}")
    try:
        cursor = Cursor(data)
        settings, count = read_settings(cursor)
        if cursor.order != "<":
            raise ValueError("its numbers are in the order of big-endian machines: convert it for little-endian ones")
        described = _descriptions(cursor, count)
        start = _aligned(cursor.place, _alignment(settings))
        _check_places(described, len(data) - start, _alignment(settings))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or no GGUF file that is supported: {error}") from error
    tensors = {one.name: _tensor(one, path, data, start) for one in described}
    return GGUFFile(path, settings, tensors)


def _descriptions(cursor: Cursor, count: int) -> list[_Description]:
    if count * _SMALLEST_DESCRIPTION > cursor.left:
        raise ValueError(f"it promises {count:,} tensors, too many for its size")
    described: dict[str, _Description] = {}
    for _ in range(count):
        name = cursor.string()
        if name in described:
            raise ValueError(f"the tensor {name!r} occurs twice")
        axes = cursor.number("I")
        if not 1 <= axes <= _MOST_AXES:
            raise ValueError(f"the tensor {name!r} has {axes} dimensions; 1 to {_MOST_AXES} are possible")
        shape = cursor.numbers("Q", axes)[::-1]
        try:
            kind = block_type(cursor.number("I"))
        except ValueError as error:
            raise ValueError(f"the tensor {name!r} {error}") from error
        if 0 in shape or shape[-1] % kind.block_size:
            raise ValueError(
                f"the tensor {name!r} of type {kind.name} has the shape {shape}; its last axis must be a multiple of "
                f"{kind.block_size}, and none may be 0"
            )
        described[name] = _Description(name, kind, shape, cursor.number("Q"))
    return list(described.values())


def _alignment(settings: dict[str, Any]) -> int:
    alignment = settings.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment % 8:
        raise ValueError(f"{ALIGNMENT_KEY} must be a multiple of 8, found {alignment!r}")
    return alignment


def _aligned(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _check_places(described: list[_Description], size: int, alignment: int) -> None:
    """No tensor may begin between two alignments, reach beyond the data, or share bytes with another."""
    before = None
    for one in sorted(described, key=lambda one: one.begin):
        if one.begin % alignment:
            raise ValueError(f"the tensor {one.name!r} begins at byte {one.begin:,}, no multiple of {alignment}")
        if one.end > size:
            raise ValueError(
                f"the tensor {one.name!r} ends at byte {one.end:,} of the data, which has {max(size, 0):,}: the file "
                "is cut off, or its head lies"
            )
        if before and one.begin < before.end:
            raise ValueError(f"the tensors {before.name!r} and {one.name!r} overlap")
        before = one


def _tensor(one: _Description, path: Path, data: JoinedParts, start: int) -> BlockTensor:
    blocks = data.array(start + one.begin, start + one.end)
    shape = (*one.shape[:-1], one.shape[-1] // one.kind.block_size, one.kind.block_bytes)
    return BlockTensor(one.name, path, one.kind, one.shape, blocks.reshape(shape))
