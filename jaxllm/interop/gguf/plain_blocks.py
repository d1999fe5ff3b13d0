"""Blocks of 32 values with one scale (and one offset) each: ggml's Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

All take uint8 [N, bytes of a block] and give float32 [N, 32]. The products are made in float32 in the order in which
ggml makes them, so that the values are the same to the last bit.

The first half of a block is in the low four bits of its 16 bytes, the second half in the high ones.
"""

from __future__ import annotations

import numpy as np


def q4_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, nibbles[16]; scale * (nibble - 8)."""
    return half_floats(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def q4_1(blocks: np.ndarray) -> np.ndarray:
    """scale f16, offset f16, nibbles[16]; scale * nibble + offset."""
    return half_floats(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + half_floats(blocks, 2)


def q5_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, fifth bits[4], nibbles[16]; scale * (five bits - 16)."""
    return half_floats(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]).astype(np.float32) - 16)


def q5_1(blocks: np.ndarray) -> np.ndarray:
    """scale f16, offset f16, fifth bits[4], nibbles[16]; scale * five bits + offset."""
    values = _five_bits(blocks[:, 4:8], blocks[:, 8:]).astype(np.float32)
    return half_floats(blocks, 0) * values + half_floats(blocks, 2)


def q8_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, int8[32]; scale * integer."""
    return half_floats(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def half_floats(blocks: np.ndarray, begin: int) -> np.ndarray:
    """The 16-bit number at this byte of each block, as float32 [N, 1]."""
    return np.ascontiguousarray(blocks[:, begin : begin + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _five_bits(fifth: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Bit i of the four bytes is the highest of value i."""
    return _nibbles(packed) | np.unpackbits(fifth, axis=1, bitorder="little") << 4
