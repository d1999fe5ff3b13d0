"""The order of the rows of query and key projections, which depends on which units a rotary embedding pairs."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from jaxllm.interop.gguf.block_tensor import BlockTensor

T = TypeVar("T", BlockTensor, np.ndarray)


def halves_of_pairs(matrix: T, heads: int) -> T:
    """Rows whose neighbours (2 i, 2 i + 1) are turned together, put so that i and i + K / 2 are.

    Of blocks only the order of the rows changes, so they stay as they are. Raises ValueError when the rows are not of
    that many heads of even width.
    """
    name = matrix.name if isinstance(matrix, BlockTensor) else "the matrix"
    rows = matrix.shape[0]
    if rows % (2 * heads):
        raise ValueError(f"{name} has {rows} rows, which are not those of {heads} heads of an even width")

    def change(values: np.ndarray) -> np.ndarray:
        pairs = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)

    return matrix.rearranged(change) if isinstance(matrix, BlockTensor) else change(matrix)
