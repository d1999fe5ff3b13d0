"""The products of the models: of activations with parameters, and of activations with each other.

Model code calls `einsum` and never touches a weight otherwise, so that a leaf which is more than an array (quantized,
low-rank) needs a case here and nowhere else.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """`jnp.einsum(equation, x, weight)` in the type of the activations, accumulated in float32.

    A leaf that is more than an array makes its products itself: `weight.product_with(equation, x)`.
    """
    of_its_own = getattr(weight, "product_with", None)
    return product(equation, x, weight, x.dtype) if of_its_own is None else of_its_own(equation, x)


def affine(equation: str, x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    """The same with a bias added, where there is one."""
    y = einsum(equation, x, weight)
    return y if bias is None else y + bias.astype(y.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(equation: str, a: jax.Array, b: jax.Array, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """`jnp.einsum(equation, a, b)`, multiplied in the type of `a`, accumulated in float32, returned in `dtype`.

    Each letter of the equation stands in two of its three terms, or in all of them. The gradients are products of the
    same kind: the cotangent is rounded to the type of `a`, as the operands were, and what is accumulated for a float32
    parameter is never rounded. (Left to itself, a float32 cotangent would make both of them float32 products, which no
    matrix unit takes.) There is no forward-mode derivative.
    """
    return _accumulate(equation, a, b.astype(a.dtype)).astype(dtype)


def _forward(equation, a, b, dtype):
    # Written out, for a rematerialization policy sees into this function, but not into a call of `product`.
    return _accumulate(equation, a, b.astype(a.dtype)).astype(dtype), (a, b)


def _backward(equation, dtype, operands, cotangent):
    a, b = operands
    left, right, out = _terms(equation)
    a, cotangent = _unfused((a, cotangent.astype(a.dtype)))
    grad_a = _accumulate(f"{out},{right}->{left}", cotangent, b.astype(a.dtype))
    grad_b = _accumulate(f"{left},{out}->{right}", a, cotangent)
    return grad_a.astype(a.dtype), grad_b.astype(b.dtype)


product.defvjp(_forward, _backward)


def _accumulate(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product in float32, arranged for XLA's fast kernels on CPUs: no transpose is inside, and where the left
    operand must be copied, since its contracted letters are not its last, the smaller one of the two stands there."""
    left, right, out = _terms(equation)
    contracted = [letter for letter in left if letter not in out]
    if not left.endswith(contracted[-1]) and a.size > b.size:
        a, b, left, right = b, a, right, left
    batch = [letter for letter in left if letter in right and letter in out]
    natural = batch + [c for c in left if c not in right] + [c for c in right if c not in left]
    natural = "".join(natural)
    result = jnp.einsum(f"{left},{right}->{natural}", a, b, preferred_element_type=jnp.float32)
    return result if natural == out else jnp.einsum(f"{natural}->{out}", _unfused(result))


def _unfused(arrays):
    """The same; on a CPU nothing is fused across it. Elementwise work that XLA fuses there into the transposing copy of
    an operand runs strided, which costs more than all products of a step. Accelerators are left their own choice."""
    return jax.lax.platform_dependent(arrays, cpu=jax.lax.optimization_barrier, default=lambda arrays: arrays)


def _terms(equation: str) -> list[str]:
    return equation.replace("->", ",").split(",")
