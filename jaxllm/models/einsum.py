"""The one product between activations and parameters.

Model code calls this and never touches a weight otherwise, so that a leaf which is more than an array (quantized,
low-rank) needs a case here and nowhere else.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """`jnp.einsum(equation, x, weight)` in the type of the activations, accumulated in float32.

    In the equation, `x` is batch letters then contracted letters, and the result is the batch letters then what
    `weight` adds, as in "BTD,DHK->BTHK". It is computed as one product of two matrices: the weight's gradient then
    contracts a single axis too, for which XLA on CPUs needs no transposed copies (2.4 times the speed of a whole step).
    """
    left, right, out = equation.replace("->", ",").split(",")
    contracted = [letter for letter in left if letter in right]
    added = [letter for letter in right if letter not in contracted]
    batch = left[: len(left) - len(contracted)]
    inward = list(right) == contracted + added
    if (
        left != batch + "".join(contracted)
        or out != batch + "".join(added)
        or not (inward or list(right) == added + contracted)
    ):
        raise AssertionError(f"{equation} is no product of activations and a weight")
    sizes = dict(zip(right, weight.shape, strict=True))
    inner, outer = (math.prod(sizes[letter] for letter in letters) for letters in (contracted, added))
    rows = x.reshape(-1, inner)
    matrix = weight.astype(x.dtype).reshape((inner, outer) if inward else (outer, inner))
    axes = (((1,), (0 if inward else 1,)), ((), ()))
    product = jax.lax.dot_general(rows, matrix, axes, preferred_element_type=jnp.float32).astype(x.dtype)
    return product.reshape(*x.shape[: len(batch)], *(sizes[letter] for letter in added))
