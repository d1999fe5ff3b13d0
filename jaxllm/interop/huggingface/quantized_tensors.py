"""Weights that a directory holds in fewer bits, as if they were there in full: expanded tensor by tensor, when used.

Two kinds are how large models are published: FP8 with one factor for a square of weights (DeepSeek-V3), and MXFP4 with
one power of two for 32 weights (GPT-OSS; Open Compute Project, Microscaling Formats 1.0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxllm.interop.huggingface.config_file import ConfigFile
from jaxllm.interop.huggingface.safetensors_files import StoredTensor

METHODS = ("fp8", "mxfp4")
FP8_SCALE, MXFP4_BLOCKS, MXFP4_SCALES = "_scale_inv", "_blocks", "_scales"

# What the sixteen codes of four bits stand for: sign, two bits of exponent, one of mantissa.
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@dataclass(frozen=True, eq=False)
class SquareScaled:
    """FP8 numbers [M, N] and a factor for each square of them."""

    weight: StoredTensor
    scale: StoredTensor
    square: tuple[int, int]

    dtype = np.dtype(np.float32)

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def file(self) -> Path:
        return self.weight.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def array(self) -> np.ndarray:
        rows, columns = self.shape
        factors = self.scale.array().astype(np.float32)
        factors = factors.repeat(self.square[0], axis=0)[:rows].repeat(self.square[1], axis=1)[:, :columns]
        return self.weight.array().astype(np.float32) * factors


@dataclass(frozen=True, eq=False)
class MicroScaled:
    """Codes of four bits [E, M, N / 32, 16 bytes] and exponents [E, M, N / 32]: experts' matrices [E, N, M]."""

    name: str
    blocks: StoredTensor
    scales: StoredTensor

    dtype = np.dtype(ml_dtypes.bfloat16)  # which holds every one of them exactly

    @property
    def file(self) -> Path:
        return self.blocks.file

    @property
    def shape(self) -> tuple[int, ...]:
        experts, rows, groups, width = self.blocks.shape
        return experts, groups * width * 2, rows

    def array(self) -> np.ndarray:
        codes = self.blocks.array()
        pairs = np.stack([codes & 15, codes >> 4], axis=-1)  # the lower half of a byte comes first
        exponents = self.scales.array().astype(np.int32)[..., None] - 127
        values = np.ldexp(FP4[pairs.reshape(*codes.shape[:-1], -1)], exponents).astype(self.dtype)
        return values.reshape(*codes.shape[:2], -1).swapaxes(1, 2)


def read_quantization(hf: ConfigFile) -> dict[str, Any]:
    """`quantization_config`, {} where weights are plain. Raises ValueError for a method that is not supported."""
    entries = hf.object("quantization_config")
    method = entries.get("quant_method", "an unknown method") if entries else None
    if method is not None and method not in METHODS:
        raise hf.error(
            f"quantization_config: weights quantized by {method} are not supported; supported: {', '.join(METHODS)}, "
            "or load a directory with the weights in float32, float16 or bfloat16"
        )
    square = entries.get("weight_block_size", [128, 128])
    if method == "fp8" and not (isinstance(square, list) and len(square) == 2 and all(type(n) is int for n in square)):
        raise hf.error(f"quantization_config: weight_block_size must be two sizes, found {square!r}")
    return entries


def expanded(stored: Mapping[str, StoredTensor], quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors under the names that they have in full. Raises ValueError for parts that do not belong together."""
    match quantization.get("quant_method"):
        case "fp8":
            rows, columns = quantization.get("weight_block_size", [128, 128])
            return _with_squares(stored, (rows, columns))
        case "mxfp4":
            return _with_microscales(stored)
    return dict(stored)


def _with_squares(stored: Mapping[str, StoredTensor], square: tuple[int, int]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for name, tensor in stored.items():
        scale = stored.get(name + FP8_SCALE)
        if scale is None:
            if not (name.endswith(FP8_SCALE) and name.removesuffix(FP8_SCALE) in stored):
                tensors[name] = tensor
            continue
        expected = tuple(math.ceil(size / side) for size, side in zip(tensor.shape, square, strict=False))
        if len(tensor.shape) != 2 or scale.shape != expected:
            raise ValueError(
                f"{scale.file}: tensor {scale.name!r} has the shape {scale.shape}; expected {expected}, one for each "
                f"{square[0]} x {square[1]} of {name} {tensor.shape}"
            )
        tensors[name] = SquareScaled(tensor, scale, square)
    return tensors


def _with_microscales(stored: Mapping[str, StoredTensor]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for name, tensor in stored.items():
        base = name.removesuffix(MXFP4_BLOCKS)
        scales = stored.get(base + MXFP4_SCALES)
        if base == name or scales is None:
            if not (name.endswith(MXFP4_SCALES) and name.removesuffix(MXFP4_SCALES) + MXFP4_BLOCKS in stored):
                tensors[name] = tensor
            continue
        whole = all(part.dtype == np.uint8 for part in (tensor, scales))
        if not whole or len(tensor.shape) != 4 or tensor.shape[:-1] != scales.shape:
            raise ValueError(
                f"{tensor.file}: tensors {name!r} {tensor.shape} and {scales.name!r} {scales.shape} must be bytes of "
                "the same shape but for the last axis of the former"
            )
        tensors[base] = MicroScaled(base, tensor, scales)
    return tensors
