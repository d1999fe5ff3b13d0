"""A fingerprint of each array that does not depend on how it is sharded: 32 bits, computed where the array lies."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp

_ODD = 2_654_435_761  # Knuth's multiplicative constant; any odd number is invertible modulo 2^32


def digests(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """A fingerprint per name. Equal arrays of one shape and type give equal numbers on any mesh; a changed bit changes
    it."""
    found = _digest_all({name: x for name, x in arrays.items() if not _in_host_memory(x)})
    for name, x in arrays.items():  # one at a time: all together they may not fit the devices
        if _in_host_memory(x):
            found |= _digest_all({name: jax.device_put(x, x.sharding.with_memory_kind("device"))})
    return {name: int(value) for name, value in jax.device_get(found).items()}


def _in_host_memory(x: jax.Array) -> bool:
    return isinstance(x, jax.Array) and x.sharding.memory_kind == "pinned_host"


@jax.jit
def _digest_all(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: digest(x, zlib.crc32(name.encode())) for name, x in arrays.items()}


def digest(x: jax.Array, salt: int) -> jax.Array:
    """Sum modulo 2^32 of each element's scrambled bits times an odd number made from its index.

    Addition of integers is exact and order-free, so sharding cannot change the result; scrambling and odd factors are
    invertible, so no change of a single element goes unnoticed; factors differ by place, so swapped elements are seen
    too, but for chance. (Without the scrambling, chance is not small: round numbers such as 1.0 and 2.0 differ in a few
    high bits only.)
    """
    bits = _bits(x)
    place = jnp.full((), salt, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        index = jnp.arange(size, dtype=jnp.uint32) * jnp.uint32(_ODD + 2 * 7919 * axis)
        place = place + jnp.expand_dims(index, tuple(i for i in range(bits.ndim) if i != axis))
    return jnp.sum(_scramble(bits) * (_scramble(place) | jnp.uint32(1)), dtype=jnp.uint32)


def _scramble(x: jax.Array) -> jax.Array:
    """An invertible map of 32 bits in which each output bit depends on many input bits (MurmurHash3's finalizer)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _bits(x: jax.Array) -> jax.Array:
    """As uint32; elements of 8 bytes become two on a new last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
