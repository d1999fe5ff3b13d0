"""A fingerprint of each array that does not depend on how it is sharded: 32 bits, computed where the array lies."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

_ODD = 2_654_435_761  # Knuth's multiplicative constant; any odd number is invertible modulo 2^32


def digests(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A fingerprint per name. Equal arrays of one shape and type give equal numbers on any mesh; a changed bit changes it."""
    return {name: int(value) for name, value in jax.device_get(_digest_all(arrays)).items()}


@jax.jit
def _digest_all(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _digest(x, zlib.crc32(name.encode())) for name, x in arrays.items()}


def _digest(x: jax.Array, salt: int) -> jax.Array:
    """Sum modulo 2^32 of each element's bits times an odd number made from its index.

    Addition of integers is exact and order-free, so sharding cannot change the result; an odd factor is invertible, so no
    change of a single element goes unnoticed; factors differ by place, so swapped elements are seen too.
    """
    bits = _bits(x)
    place = jnp.full((), salt, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = jnp.arange(size, dtype=jnp.uint32) * jnp.uint32(_ODD + 2 * 7919 * axis)
        place = place + jnp.expand_dims(index, tuple(i for i in range(x.ndim) if i != axis))
    mixed = (place ^ (place >> 15)) * jnp.uint32(_ODD)
    return jnp.sum(bits * (mixed | jnp.uint32(1)), dtype=jnp.uint32)


def _bits(x: Any) -> jax.Array:
    if x.dtype == jnp.bool_ or x.dtype.itemsize == 8:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
