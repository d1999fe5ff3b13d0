"""Matrix products with both operands in eight bits, forward and for the gradients.

Hardware without such units multiplies the same numbers in a wider type (XLA on CPUs widens float8 operands), so results
are those of the rounded operands everywhere; only the speed is the hardware's.

Shape letters: M rows of activations, K the width that is summed over, N columns of the weights, C blocks of the sum.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.quantize.config import ProductConfig
from jaxllm.quantize.number_formats import (
    E4M3,
    E5M2,
    INT8,
    NumberFormat,
    in_tiles,
    largest_magnitude,
    rounded,
    scale_for,
)

# Rows of a history of magnitudes.
ACTIVATIONS, WEIGHTS, GRADIENTS = 0, 1, 2


def quantized_product(
    config: ProductConfig, x_MK: jax.Array, weight_KN: jax.Array, history: jax.Array | None = None
) -> jax.Array:
    """x weight in float32 [M, N], made from operands of eight bits.

    With delayed scaling `history` [3, steps] holds the largest magnitudes of activations, weights and gradients in the
    steps before. It is only read, so whatever computes a product again scales it as before; what this step saw comes
    out as the "gradient" of the history, in its first column.
    """
    if config.scales == "block":
        return _by_block(config, x_MK, weight_KN)
    return _by_tensor(config, x_MK, weight_KN, history)


def formats(config: ProductConfig) -> tuple[NumberFormat, NumberFormat]:
    """Of activations and weights, and of gradients."""
    return (INT8, INT8) if config.kind == "int8" else (E4M3, E5M2)


# One scale a tensor


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_tensor(config, x_MK, weight_KN, history):
    return _by_tensor_forward(config, x_MK, weight_KN, history)[0]


def _by_tensor_forward(config, x_MK, weight_KN, history):
    forward, _ = formats(config)
    (x, x_scale, x_seen), (w, w_scale, w_seen) = (
        _scaled(operand, forward, history, row) for operand, row in ((x_MK, ACTIVATIONS), (weight_KN, WEIGHTS))
    )
    y_MN = _product("mk,kn->mn", x, w) * (x_scale * w_scale)
    # What the derivative multiplies with has eight bits too, unless it multiplies in the compute type.
    operands = (x_MK, weight_KN) if config.backward == "compute" else (x, x_scale, w, w_scale)
    types = (jnp.zeros((0,), x_MK.dtype), jnp.zeros((0,), weight_KN.dtype))
    return y_MN, (operands, types, (x_seen, w_seen), history)


def _by_tensor_backward(config, residuals, cotangent_MN):
    operands, (x_like, w_like), seen, history = residuals
    if config.backward == "compute":
        return *_compute_gradients(*operands, cotangent_MN), None
    x, x_scale, w, w_scale = operands
    gradient, g_scale, g_seen = _scaled(cotangent_MN, formats(config)[1], history, GRADIENTS)
    grad_x = _product("mn,kn->mk", gradient, w) * (g_scale * w_scale)
    grad_w = _product("mk,mn->kn", x, gradient) * (x_scale * g_scale)
    observed = None if history is None else jnp.zeros_like(history).at[:, 0].set(jnp.stack([*seen, g_seen]))
    return grad_x.astype(x_like.dtype), grad_w.astype(w_like.dtype), observed


_by_tensor.defvjp(_by_tensor_forward, _by_tensor_backward)


def _scaled(x, to: NumberFormat, history, row: int):
    """Rounded numbers, their scale, and the largest magnitude that was seen. A history that is still empty says
    nothing: the first step scales by what it sees."""
    seen = largest_magnitude(x)
    if history is None:
        scale = scale_for(seen, to)
    else:
        remembered = history[row].max()
        scale = scale_for(jnp.where(remembered > 0, remembered, seen), to)
    return rounded(x, scale, to), scale, seen


def _product(equation: str, a, b):
    sums = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
    return jnp.einsum(equation, a, b, preferred_element_type=sums).astype(jnp.float32)


def _compute_gradients(x_MK, weight_KN, cotangent_MN):
    cotangent_MN, w = cotangent_MN.astype(x_MK.dtype), weight_KN.astype(x_MK.dtype)
    sums = partial(jnp.einsum, preferred_element_type=jnp.float32)
    grad_x = sums("mn,kn->mk", cotangent_MN, w).astype(x_MK.dtype)
    return grad_x, sums("mk,mn->kn", x_MK, cotangent_MN).astype(weight_KN.dtype)


# A scale a tile


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_block(config, x_MK, weight_KN):
    forward, _ = formats(config)
    return tiled_product(x_MK, weight_KN, forward, forward, config.block, config.block)


def _by_block_forward(config, x_MK, weight_KN):
    return _by_block(config, x_MK, weight_KN), (x_MK, weight_KN)


def _by_block_backward(config, operands, cotangent_MN):
    x_MK, weight_KN = operands
    if config.backward == "compute":
        return _compute_gradients(x_MK, weight_KN, cotangent_MN)
    forward, backward = formats(config)
    # A block of weights is a block of their transpose; activations are cut anew, for now the sum goes over tokens.
    grad_x = tiled_product(cotangent_MN, weight_KN.T, backward, forward, config.block, config.block)
    grad_w = tiled_product(x_MK.T, cotangent_MN, forward, backward, config.block, 1)
    return grad_x.astype(x_MK.dtype), grad_w.astype(weight_KN.dtype)


_by_block.defvjp(_by_block_forward, _by_block_backward)


def tiled_product(
    a_MK: jax.Array, b_KN: jax.Array, a_format: NumberFormat, b_format: NumberFormat, block: int, columns: int
) -> jax.Array:
    """a b in float32, with a scale for every 1 x block of `a` and every block x columns of `b`.

    Each block of the sum is multiplied in eight bits, scaled and added in float32, one after another.
    """
    M, N = a_MK.shape[0], b_KN.shape[1]
    a, a_scale_MC = in_tiles(a_MK, 1, block, a_format)
    b, b_scale = in_tiles(b_KN, block, columns, b_format)
    b_scale_CN = jnp.repeat(b_scale, columns, axis=1)
    a_CMk, b_CkN = jnp.moveaxis(a.reshape(M, -1, block), 1, 0), b.reshape(-1, block, b.shape[1])

    def add(sum_MN, tiles):
        a_Mk, a_scale_M, b_kN, b_scale_N = tiles
        return sum_MN + _product("mk,kn->mn", a_Mk, b_kN) * (a_scale_M[:, None] * b_scale_N), None

    start = jnp.zeros((M, b.shape[1]), jnp.float32)
    return jax.lax.scan(add, start, (a_CMk, a_scale_MC.T, b_CkN, b_scale_CN))[0][:, :N]
