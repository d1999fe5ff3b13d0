"""A tensor as a file has it: blocks that are decoded when they are asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxllm.interop.gguf.block_types import BlockType

_DECODED_AT_ONCE = 1 << 20  # values: the intermediate arrays of a decoder stay small


@dataclass(frozen=True, eq=False)
class BlockTensor:
    """Rows of blocks; what a row is, the last axis, is never torn between blocks."""

    name: str
    file: Path
    kind: BlockType
    shape: tuple[int, ...]
    blocks: np.ndarray
    """uint8 [*shape[:-1], blocks of a row, bytes of a block], a view of the file."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the decoded values."""
        return self.kind.dtype

    def dequantize(self, rows: slice | int | tuple = slice(None)) -> np.ndarray:
        """The values of some rows; `rows` indexes the axes before the last."""
        blocks = self.blocks[rows]
        shape = (*blocks.shape[:-2], self.shape[-1])
        if self.kind.decode is None:
            return np.ascontiguousarray(blocks).reshape(-1).view(self.kind.dtype).reshape(shape)
        flat = blocks.reshape(-1, self.kind.block_bytes)
        values = np.empty((len(flat), self.kind.block_size), np.float32)
        step = _DECODED_AT_ONCE // self.kind.block_size
        # Bytes that are no finite number are found by whoever takes the values in.
        with np.errstate(invalid="ignore", over="ignore"):
            for begin in range(0, len(flat), step):
                values[begin : begin + step] = self.kind.decode(np.ascontiguousarray(flat[begin : begin + step]))
        return values.reshape(shape)

    def array(self) -> np.ndarray:
        """All values."""
        return self.dequantize()

    def rearranged(self, change: Callable[[np.ndarray], np.ndarray]) -> BlockTensor:
        """The same with its rows in another order: `change` is applied to the blocks, and keeps their shape."""
        blocks = change(self.blocks)
        assert blocks.shape == self.blocks.shape, (self.name, blocks.shape)
        return replace(self, blocks=blocks)


@dataclass(frozen=True, eq=False)
class ChangedTensor:
    """A tensor whose values are not quite what is wanted, such as norms that have 1 added to them, or a transpose."""

    tensor: BlockTensor
    shape: tuple[int, ...]
    change: Callable[[np.ndarray], np.ndarray]

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def file(self) -> Path:
        return self.tensor.file

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def array(self) -> np.ndarray:
        return self.change(self.tensor.array())
