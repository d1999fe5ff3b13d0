"""Products of rows with the matrices of their groups on TPUs: JAX's megablox kernels (Pallas).

Only the tiles that a group's rows lie in are computed, in the gradient of the matrices too, which XLA's own ragged
product computes as E whole products on TPUs (found by compiling it: E times the FLOPs).

Shape letters: N rows, D and F widths, E groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.kernels.platform import is_interpreting
from jaxllm.kernels.tuning import product_tiles, weight_gradient_tiles


def rows(x_ND: jax.Array, weight_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Row n times the matrix of its group, float32 [N, F]; zeros beyond the last group."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    N, (_, D, F) = x_ND.shape[0], weight_EDF.shape
    tiles = product_tiles(N, D, F)
    x_ND, sizes_all = _whole_tiles(x_ND, sizes_E, tiles.rows)
    y_NF = gmm(
        x_ND,
        weight_EDF,
        sizes_all,
        jnp.float32,
        (tiles.rows, tiles.inner, tiles.outer),
        interpret=is_interpreting(),
    )
    return jnp.where(jnp.arange(N)[:, None] < sizes_E.sum(), y_NF[:N], 0)


def reference_rows(x_ND, weight_EDF, sizes_E):
    """The slow twin: each group by itself, sizes known."""
    ends, out = jnp.cumsum(sizes_E), jnp.zeros((x_ND.shape[0], weight_EDF.shape[2]), jnp.float32)
    for matrix, start, end in zip(weight_EDF, ends - sizes_E, ends, strict=True):
        out = out.at[int(start) : int(end)].set(jnp.dot(x_ND[int(start) : int(end)], matrix, precision="highest"))
    return out


def weights(x_ND: jax.Array, cotangent_NF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """The sum over each group's rows of x^T cotangent, float32 [E, D, F]; zeros for an empty group."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    (N, D), F = x_ND.shape, cotangent_NF.shape[1]
    tiles = weight_gradient_tiles(N, D, F)
    mine_N1 = jnp.arange(N)[:, None] < sizes_E.sum()
    x_ND, sizes_all = _whole_tiles(x_ND, sizes_E, tiles.rows)
    cotangent_NF, _ = _whole_tiles(jnp.where(mine_N1, cotangent_NF, 0), sizes_E, tiles.rows)
    return tgmm(
        x_ND.T,
        cotangent_NF,
        sizes_all,
        jnp.float32,
        (tiles.rows, tiles.inner, tiles.outer),
        interpret=is_interpreting(),
    )


def reference_weights(x_ND, cotangent_NF, sizes_E):
    """The slow twin of `weights`, sizes known."""
    ends = jnp.cumsum(sizes_E)
    ranges = [slice(int(end - size), int(end)) for size, end in zip(sizes_E, ends, strict=True)]
    return jnp.stack([jnp.dot(x_ND[part].T, cotangent_NF[part], precision="highest") for part in ranges])


def _whole_tiles(x_ND, sizes_E, rows_of_tile):
    """Rows in whole tiles, each of a group: what is beyond the last group is counted to it, so that there is something
    to compute even where all groups are empty."""
    x_ND = jnp.pad(x_ND, ((0, -x_ND.shape[0] % rows_of_tile), (0, 0)))
    return x_ND, sizes_E.at[-1].add(x_ND.shape[0] - sizes_E.sum()).astype(jnp.int32)
