"""Rounding float32 to bfloat16 up or down by chance, so that the expected value is the number itself.

Round to nearest loses updates smaller than half a step of the type (1 part in 512 for bfloat16); by chance they count
on average (Gupta et al. 2015).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def stochastic_round(x: jax.Array, key: jax.Array) -> jax.Array:
    """`x` (float32) in bfloat16, one of its two neighbours there, each with a chance linear in its nearness.

    What bfloat16 can hold stays as it is, and so do infinities and NaN.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    up = jax.lax.bitcast_convert_type((bits + chance) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), up, x).astype(jnp.bfloat16)


def store_like(tree: Any, stored: Any, key: jax.Array) -> Any:
    """Each array in the type that it has in `stored`: float32 goes to bfloat16 by chance, drawn anew for each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = [leaf.dtype for leaf in jax.tree.leaves(stored)]
    kept = [
        stochastic_round(leaf, jax.random.fold_in(key, i)) if kind == jnp.bfloat16 and leaf.dtype != kind else leaf
        for i, (leaf, kind) in enumerate(zip(leaves, kinds, strict=True))
    ]
    return structure.unflatten(kept)


def widened(tree: Any) -> Any:
    """The same numbers, bfloat16 ones in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)
