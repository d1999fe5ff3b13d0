"""The product of rows with matrices that change from one group of rows to the next.

Shape letters: N rows, D and F widths, E groups, M rows of a block.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.kernels import megablox
from jaxllm.kernels.choice import choose_experts


def grouped_product(x_ND: jax.Array, weight_EDF: jax.Array, sizes_E: jax.Array, kernel: str = "auto") -> jax.Array:
    """Row n times the matrix of its group, [N, F] in the type of `x`: the first sizes[0] rows are group 0's, and so on.

    Rows beyond the last group give zeros. Products are in the type of `x`, accumulated in float32, and so are the
    gradients: what is summed for a float32 matrix is never rounded. `kernel` is that of `KernelConfig.experts`; raises
    ValueError for one that is not for this platform.
    """
    return _product(choose_experts(kernel).kernel, x_ND, weight_EDF, sizes_E)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(kernel: str, x_ND: jax.Array, weight_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    return _ROWS[kernel](x_ND, weight_EDF.astype(x_ND.dtype), sizes_E).astype(x_ND.dtype)


def reference_grouped_product(x_ND: jax.Array, weight_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """The slow twin: every row with every matrix, and a mask."""
    ends_E = jnp.cumsum(sizes_E)
    row_N1 = jnp.arange(x_ND.shape[0])[:, None]
    mine_NE = (row_N1 < ends_E) & (row_N1 >= ends_E - sizes_E)
    return jnp.einsum("ND,EDF,NE->NF", x_ND, weight_EDF.astype(x_ND.dtype), mine_NE.astype(x_ND.dtype))


def _forward(kernel, x_ND, weight_EDF, sizes_E):
    return _product(kernel, x_ND, weight_EDF, sizes_E), (x_ND, weight_EDF, sizes_E)


def _backward(kernel, residuals, cotangent_NF):
    x_ND, weight_EDF, sizes_E = residuals
    cotangent_NF = cotangent_NF.astype(x_ND.dtype)
    grad_x = _ROWS[kernel](cotangent_NF, jnp.swapaxes(weight_EDF.astype(x_ND.dtype), 1, 2), sizes_E)
    grad_weight = _WEIGHTS[kernel](x_ND, cotangent_NF, sizes_E)
    return grad_x.astype(x_ND.dtype), grad_weight.astype(weight_EDF.dtype), None


_product.defvjp(_forward, _backward)


def _rows_ragged(x_ND, weight_EDF, sizes_E):
    y_NF = jax.lax.ragged_dot(x_ND, weight_EDF, sizes_E, preferred_element_type=jnp.float32)
    # What stands beyond the last group is up to the backend.
    return jnp.where(jnp.arange(x_ND.shape[0])[:, None] < sizes_E.sum(), y_NF, 0)


def _weights_ragged(x_ND, cotangent_NF, sizes_E):
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=(0,), rhs_group_dimensions=()
    )
    return jax.lax.ragged_dot_general(x_ND, cotangent_NF, sizes_E, numbers, preferred_element_type=jnp.float32)


def _rows_in_blocks(x_ND, weight_EDF, sizes_E):
    N, (E, _, F) = x_ND.shape[0], weight_EDF.shape
    M = _block_rows(N, E)
    x_padded = jnp.pad(x_ND, ((0, M), (0, 0)))

    def block(j, y_NF):
        group, start, _ = _block(j, sizes_E, M)
        rows_MD = jax.lax.dynamic_slice_in_dim(x_padded, start, M)
        out_MF = jnp.dot(rows_MD, weight_EDF[group], preferred_element_type=jnp.float32)
        # The last block of a group reaches into the next one, whose own blocks come later and write over it.
        return jax.lax.dynamic_update_slice_in_dim(y_NF, out_MF, start, 0)

    y_NF = jax.lax.fori_loop(0, _block_ends(sizes_E, M)[-1], block, jnp.zeros((N + M, F), jnp.float32))[:N]
    return jnp.where(jnp.arange(N)[:, None] < sizes_E.sum(), y_NF, 0)


def _weights_in_blocks(x_ND, cotangent_NF, sizes_E):
    (N, D), F, E = x_ND.shape, cotangent_NF.shape[1], sizes_E.shape[0]
    M = _block_rows(N, E)
    x_padded, cotangent_padded = (jnp.pad(a, ((0, M), (0, 0))) for a in (x_ND, cotangent_NF))

    def block(j, grad_EDF):
        group, start, count = _block(j, sizes_E, M)
        rows_MD = jax.lax.dynamic_slice_in_dim(x_padded, start, M)
        rows_MD = jnp.where(jnp.arange(M)[:, None] < count, rows_MD, 0)
        rows_MF = jax.lax.dynamic_slice_in_dim(cotangent_padded, start, M)
        return grad_EDF.at[group].add(jnp.dot(rows_MD.T, rows_MF, preferred_element_type=jnp.float32))

    return jax.lax.fori_loop(0, _block_ends(sizes_E, M)[-1], block, jnp.zeros((E, D, F), jnp.float32))


def _block_rows(rows: int, groups: int) -> int:
    """A power of two near half of a mean group: a shorter last block wastes little, a longer one is a better
    product."""
    return 1 << min(8, max(3, (rows // groups).bit_length() - 1))


def _block_ends(sizes_E, M):
    """Blocks up to the end of each group, none of them shared between groups."""
    return jnp.cumsum((sizes_E + M - 1) // M)


def _block(j, sizes_E, M):
    """Group of block j, its first row, and how many of its rows are the group's."""
    ends_E = _block_ends(sizes_E, M)
    group = jnp.searchsorted(ends_E, j, side="right")
    offset = (j - jnp.where(group > 0, ends_E[group - 1], 0)) * M
    return group, jnp.cumsum(sizes_E)[group] - sizes_E[group] + offset, sizes_E[group] - offset


# Float32 [N, F] and [E, D, F]. XLA computes a ragged product on CPUs as E whole ones (eight groups of 2048 x 256 x 512:
# 78 ms, where the loop over blocks of rows takes 13), and on TPUs the gradient of the matrices.
_ROWS = {"blocks": _rows_in_blocks, "ragged": _rows_ragged, "megablox": megablox.rows}
_WEIGHTS = {"blocks": _weights_in_blocks, "ragged": _weights_ragged, "megablox": megablox.weights}
