"""Which keys a query may see, said by where tokens stand rather than by a mask as large as the scores.

Shape letters: B batch, T query time, S key time.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

# Beyond every position and segment that a text can have.
FAR = 2**30


@struct.dataclass
class Places:
    """Where tokens stand, [B, T] int32 each (B may be 1)."""

    positions_BT: jax.Array
    segment_ids_BT: jax.Array | None
    """Tokens see their own segment only; None: a row is one segment."""


@dataclass(frozen=True)
class Reach:
    """How far queries see within their segment."""

    causal: bool = True
    """Nothing later than themselves."""
    window: int = 0
    """So many positions, the own one the last of them; or, where later ones may be seen, half of it to either side."""
    chunk: int = 0
    """Only their own chunk of this many positions, counted from position 0."""


def visible(query: Places, key: Places, reach: Reach) -> jax.Array | None:
    """Bool [B, T, S]; None where every key is seen."""
    q, k = query.positions_BT[:, :, None], key.positions_BT[:, None, :]
    conditions = []
    if reach.causal:
        conditions.append(k <= q)
    if reach.window:
        far = reach.window - 1 if reach.causal else reach.window // 2
        conditions.append(q - k <= far)
        if not reach.causal:
            conditions.append(k - q <= far)
    if reach.chunk:
        conditions.append(q // reach.chunk == k // reach.chunk)
    if query.segment_ids_BT is not None:
        conditions.append(key.segment_ids_BT[:, None, :] == query.segment_ids_BT[:, :, None])
    return functools.reduce(operator.and_, conditions) if conditions else None


def may_meet(query: Places, key: Places, reach: Reach) -> jax.Array:
    """A bool scalar, False only where no query sees any key: such a block of scores need not be computed.

    It is found from the ends of both blocks, in the order of (segment, position). In a packed row that is the order of
    the text, whatever order the tokens lie in; for ids that are in no order the answer is still safe.
    """
    position, segment = query.positions_BT, _ordered(query)
    first, last = jnp.zeros_like(position), jnp.full_like(position, FAR)
    if reach.causal:
        last = position
    if reach.window:
        first = jnp.maximum(first, position - (reach.window - 1 if reach.causal else reach.window // 2))
        last = last if reach.causal else jnp.minimum(last, position + reach.window // 2)
    if reach.chunk:
        first = jnp.maximum(first, position // reach.chunk * reach.chunk)
        last = jnp.minimum(last, position // reach.chunk * reach.chunk + reach.chunk - 1)
    key_segment = _ordered(key)
    starts_in_time = _not_after(_lowest(key_segment, key.positions_BT), _highest(segment, last))
    ends_in_time = _not_after(_lowest(segment, first), _highest(key_segment, key.positions_BT))
    return (starts_in_time & ends_in_time).any()


def _ordered(places: Places) -> jax.Array:
    """Segments in the order of the row: 0, the padding, stands last."""
    if places.segment_ids_BT is None:
        return jnp.zeros_like(places.positions_BT)
    return jnp.where(places.segment_ids_BT == 0, FAR, places.segment_ids_BT)


def _lowest(segment_BT: jax.Array, position_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    segment_B1 = segment_BT.min(1, keepdims=True)
    return segment_B1[:, 0], jnp.where(segment_BT == segment_B1, position_BT, 2 * (FAR - 1)).min(1)


def _highest(segment_BT: jax.Array, position_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    segment_B1 = segment_BT.max(1, keepdims=True)
    return segment_B1[:, 0], jnp.where(segment_BT == segment_B1, position_BT, -1).max(1)


def _not_after(low: tuple[jax.Array, jax.Array], high: tuple[jax.Array, jax.Array]) -> jax.Array:
    return (low[0] < high[0]) | ((low[0] == high[0]) & (low[1] <= high[1]))
