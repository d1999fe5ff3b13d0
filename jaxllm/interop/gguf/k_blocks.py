"""Blocks of 256 values in groups of 16 or 32, whose scales are quantized too: ggml's Q2_K to Q6_K.

All take uint8 [N, bytes of a block] and give float32 [N, 256]. The products are made in float32 in the order in which
ggml makes them, so that the values are the same to the last bit.

Shape letters: N blocks, and what a block is cut into, as the arrays are reshaped.
"""

from __future__ import annotations

import numpy as np

from jaxllm.interop.gguf.plain_blocks import half_floats


def q2_k(blocks: np.ndarray) -> np.ndarray:
    """scales[16] (low bits the scale, high bits the minimum of 16 values), two bits[64], scale f16, minimum f16."""
    scales, mins = blocks[:, :16] & 15, blocks[:, :16] >> 4
    values = _two_bits(blocks[:, 16:80]).reshape(-1, 16, 16)
    return _scaled(half_floats(blocks, 80), scales, values, half_floats(blocks, 82), mins)


def q3_k(blocks: np.ndarray) -> np.ndarray:
    """third bits[32], two bits[64], scales[12] (16 of six bits), scale f16; a third bit that is not set means -4."""
    third = _bit_planes(blocks[:, :32])
    values = (_two_bits(blocks[:, 32:96]) | third << 2).reshape(-1, 16, 16).astype(np.float32) - 4
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = (packed[:, None, 8:] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(-1, 16)
    scales = half_floats(blocks, 108) * ((low | high << 4).astype(np.float32) - 32)
    return (scales[:, :, None] * values).reshape(-1, 256)


def q4_k(blocks: np.ndarray) -> np.ndarray:
    """scale f16, minimum f16, scales and minima[12] (8 of six bits each), nibbles[128]."""
    values = _halves_of_32(blocks[:, 16:])
    return _scaled(half_floats(blocks, 0), *_six_bit_pairs(blocks[:, 4:16], values, half_floats(blocks, 2)))


def q5_k(blocks: np.ndarray) -> np.ndarray:
    """As Q4_K, with fifth bits[32] before the nibbles: bit j of a byte belongs to group j."""
    values = _halves_of_32(blocks[:, 48:]) | _bit_planes(blocks[:, 16:48]).reshape(-1, 8, 32) << 4
    return _scaled(half_floats(blocks, 0), *_six_bit_pairs(blocks[:, 4:16], values, half_floats(blocks, 2)))


def q6_k(blocks: np.ndarray) -> np.ndarray:
    """nibbles[128], high two bits[64], scales int8[16], scale f16; scales * (six bits - 32)."""
    # Each half of a block has 64 bytes: their low bits come first, then their high ones.
    packed = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 256)
    values = (low | _two_bits(blocks[:, 128:192]) << 4).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = half_floats(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (scales[:, :, None] * values).reshape(-1, 256)


def _scaled(
    scale: np.ndarray, scales: np.ndarray, values: np.ndarray, minimum: np.ndarray, mins: np.ndarray
) -> np.ndarray:
    """scale * scales * values - minimum * mins; scales and mins by group."""
    scales, mins = scale * scales.astype(np.float32), minimum * mins.astype(np.float32)
    return (scales[:, :, None] * values.astype(np.float32) - mins[:, :, None]).reshape(len(values), 256)


def _two_bits(packed: np.ndarray) -> np.ndarray:
    """Of each 32 bytes first the lowest two bits, then the next: [N, 64] to [N, 256]."""
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 256)


def _bit_planes(packed: np.ndarray) -> np.ndarray:
    """First the lowest bits of the 32 bytes, then the next: [N, 32] to [N, 256]."""
    return (packed[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(-1, 256)


def _halves_of_32(packed: np.ndarray) -> np.ndarray:
    """Of each 32 bytes first the low nibbles, then the high ones: [N, 128] to [N, 8, 32]."""
    chunks = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(-1, 8, 32)


def _six_bit_pairs(packed: np.ndarray, values: np.ndarray, minimum: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `_scaled` takes after the scale; [N, 12] holds eight scales and eight minima of six bits.

    The first four of each are the low six bits of bytes 0 to 7; the high two bits of those bytes are the high bits of
    the last four, whose low four bits are the nibbles of bytes 8 to 11.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    mins = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales, values, minimum, mins
