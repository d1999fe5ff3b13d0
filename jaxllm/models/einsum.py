"""The one matrix product between activations and parameters.

Model code calls this and never touches a weight otherwise, so that a leaf which is more than an array (quantized, low-rank)
needs a case here and nowhere else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """`jnp.einsum` in the type of the activations: float32 parameters are cast where they are used."""
    return jnp.einsum(equation, x, weight.astype(x.dtype))
