"""The ways in which ggml stores the values of a tensor: in blocks of one size, each with its own scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from jaxllm.interop.gguf import k_blocks, plain_blocks

Decode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BlockType:
    """Blocks of `block_size` values in `block_bytes` bytes."""

    name: str
    block_size: int
    block_bytes: int
    decode: Decode | None = None
    """uint8 [N, block_bytes] to float32 [N, block_size]; None where the bytes are numbers as they are."""
    dtype: np.dtype = np.dtype(np.float32)
    """What the values are: float32 of all blocks that are decoded."""

    @property
    def bits_per_value(self) -> float:
        return 8 * self.block_bytes / self.block_size


def _numbers(name: str, dtype: object) -> BlockType:
    return BlockType(name, 1, np.dtype(dtype).itemsize, dtype=np.dtype(dtype))


BLOCK_TYPES: dict[int, BlockType] = {
    0: _numbers("F32", "<f4"),
    1: _numbers("F16", "<f2"),
    2: BlockType("Q4_0", 32, 18, plain_blocks.q4_0),
    3: BlockType("Q4_1", 32, 20, plain_blocks.q4_1),
    6: BlockType("Q5_0", 32, 22, plain_blocks.q5_0),
    7: BlockType("Q5_1", 32, 24, plain_blocks.q5_1),
    8: BlockType("Q8_0", 32, 34, plain_blocks.q8_0),
    10: BlockType("Q2_K", 256, 84, k_blocks.q2_k),
    11: BlockType("Q3_K", 256, 110, k_blocks.q3_k),
    12: BlockType("Q4_K", 256, 144, k_blocks.q4_k),
    13: BlockType("Q5_K", 256, 176, k_blocks.q5_k),
    14: BlockType("Q6_K", 256, 210, k_blocks.q6_k),
    30: _numbers("BF16", ml_dtypes.bfloat16),
}
"""By the number that files have for them."""

_OTHERS = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


def block_type(number: int) -> BlockType:
    """Raises ValueError, naming it, for a type that is not supported."""
    if number not in BLOCK_TYPES:
        name = f"{_OTHERS[number]} ({number})" if number in _OTHERS else f"number {number}, which no program knows here"
        supported = ", ".join(one.name for one in BLOCK_TYPES.values())
        raise ValueError(f"is of the type {name}; supported are {supported}")
    return BLOCK_TYPES[number]


def block_type_named(name: str) -> BlockType:
    """Raises ValueError for a name that is not supported."""
    for one in BLOCK_TYPES.values():
        if one.name == name:
            return one
    names = ", ".join(one.name for one in BLOCK_TYPES.values())
    raise ValueError(f"there is no block type {name!r}; there are {names}")
