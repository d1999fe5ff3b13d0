"""Which keys a query may see.

Shape letters: B batch, T query time, S key time.
"""

from __future__ import annotations

import functools
import operator

import jax


def visible(
    query_positions: jax.Array,
    key_positions: jax.Array,
    segment_ids: jax.Array | None,
    *,
    causal: bool = True,
    window: int = 0,
    chunk: int = 0,
) -> jax.Array | None:
    """Bool [B, T, S] from positions [B, T] and [B, S] (B may be 1 in either); None where every key is seen.

    Of its own segment; if causal, not later than itself; within a window, `window` positions with its own the last of
    them, or, where later ones may be seen, `window // 2` on either side; of its own chunk, those being counted from
    position 0 of its document.
    """
    query, key = query_positions[:, :, None], key_positions[:, None, :]
    conditions = []
    if causal:
        conditions.append(key <= query)
    if window:
        reach = window - 1 if causal else window // 2
        conditions.append(query - key <= reach)
        if not causal:
            conditions.append(key - query <= reach)
    if chunk:
        conditions.append(query // chunk == key // chunk)
    if segment_ids is not None:
        conditions.append(segment_ids[:, None, :] == segment_ids[:, :, None])
    return functools.reduce(operator.and_, conditions) if conditions else None
