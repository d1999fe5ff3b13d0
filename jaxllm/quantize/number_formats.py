"""Formats of eight bits: how a tensor is scaled and rounded into one, whole or tile by tile.

Shape letters: M rows, K columns of a matrix, C blocks of columns, R blocks of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class NumberFormat:
    """Numbers from -largest to largest; `sums` is the type that products of them are added up in."""

    name: str
    largest: float
    sums: str

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.name)


INT8 = NumberFormat("int8", 127.0, "int32")
E4M3 = NumberFormat("float8_e4m3fn", 448.0, "float32")
E5M2 = NumberFormat("float8_e5m2", 57344.0, "float32")


def largest_magnitude(x: jax.Array, axis: Any = None) -> jax.Array:
    """In float32; over the axes given, which stay with size 1, or over all."""
    return jnp.abs(x.astype(jnp.float32)).max(axis=axis, keepdims=axis is not None)


def scale_for(magnitude: jax.Array, to: NumberFormat) -> jax.Array:
    """What numbers up to `magnitude` are divided by to fill the format; 1 where there are only zeros."""
    return jnp.where(magnitude > 0, magnitude / to.largest, 1.0).astype(jnp.float32)


def rounded(x: jax.Array, scale: jax.Array, to: NumberFormat) -> jax.Array:
    """x / scale in the format, to nearest even; what lies beyond its range becomes its largest number."""
    y = jnp.clip(x.astype(jnp.float32) / scale, -to.largest, to.largest)
    return (jnp.rint(y) if to is INT8 else y).astype(to.dtype)


def in_tiles(x_MK: jax.Array, rows: int, columns: int, to: NumberFormat) -> tuple[jax.Array, jax.Array]:
    """The matrix in tiles of rows x columns with a scale each: numbers [M', K'] and scales [M' / rows, K' / columns].

    M' and K' are M and K rounded up to whole tiles; the rest is zero.
    """
    M, K = x_MK.shape
    x_MK = jnp.pad(x_MK, ((0, -M % rows), (0, -K % columns)))
    R, C = x_MK.shape[0] // rows, x_MK.shape[1] // columns
    tiles = x_MK.reshape(R, rows, C, columns)
    scale = scale_for(largest_magnitude(tiles, (1, 3)), to)
    return rounded(tiles, scale, to).reshape(x_MK.shape), scale[:, 0, :, 0]
