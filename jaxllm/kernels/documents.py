"""Packed rows as kernels want them: documents as runs of tokens.

Shape letters: B batch, T time, M most documents of a row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def run_numbers(positions_BT: jax.Array, segment_ids_BT: jax.Array | None, chunk: int) -> jax.Array | None:
    """An id for each token, int32 [B, T], that it shares with those it may see as far as documents and chunks go: the
    segments themselves, or the chunks within each of them, numbered along the row. None where a row is one run.

    A document's tokens must lie side by side, in their order.
    """
    if not chunk:
        return None if segment_ids_BT is None else segment_ids_BT.astype(jnp.int32)
    chunk_BT = positions_BT // chunk
    changes_BT = chunk_BT[:, 1:] != chunk_BT[:, :-1]
    if segment_ids_BT is not None:
        changes_BT = changes_BT | (segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1])
    return jnp.cumsum(jnp.pad(changes_BT, ((0, 0), (1, 0))), axis=1, dtype=jnp.int32)


def starts_and_lengths(ids_BT: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the runs of equal ids of each row begin and how long they are, int32 [B, M], -1 beyond the last run; and
    whether a row has no more than `most` of them, bool [B]."""
    B, T = ids_BT.shape
    is_start_BT = jnp.pad(ids_BT[:, 1:] != ids_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    ordered_BT = jnp.sort(jnp.where(is_start_BT, jnp.arange(T, dtype=jnp.int32), T), axis=1)
    padded = jnp.pad(ordered_BT, ((0, 0), (0, max(0, most + 1 - T))), constant_values=T)
    start_BM, end_BM = padded[:, :most], padded[:, 1 : most + 1]
    exists_BM = start_BM < T
    starts = jnp.where(exists_BM, start_BM, -1)
    return starts, jnp.where(exists_BM, end_BM - start_BM, -1), is_start_BT.sum(axis=1) <= most
