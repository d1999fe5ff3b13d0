"""What attention remembers: keys and values of all positions, or of as many as its window reaches back.

Position p lies in slot p mod S. A full cache has a slot for each position of the text. A ring has fewer, and a new
position takes the place of the one S before it, which its window no longer reaches.

Shape letters: B batch, T new positions, S slots, G key/value heads, K key width, V value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

# Where a slot holds nothing yet, its position is later than any query's, so that causality hides it.
NEVER = 2**30


@struct.dataclass
class KVCache:
    """Keys and values of one layer. What a full cache holds beyond a row's newest position is overwritten before it is
    seen; a ring can't go back, for what its newest positions replaced is lost."""

    key_BSGK: jax.Array
    value_BSGV: jax.Array
    length: int = struct.field(pytree_node=False)
    """Positions of the text there is room for."""

    @property
    def is_ring(self) -> bool:
        return self.key_BSGK.shape[1] < self.length


def empty_kv_cache(
    batch: int, length: int, kv_heads: int, key_width: int, value_width: int, dtype: str, *, reach: int = 0
) -> KVCache:
    """Room for `length` positions, of which no query sees more than `reach` (0: all)."""
    slots = min(length, reach or length)
    buffer = lambda width: jnp.zeros((batch, slots, kv_heads, width), dtype)  # noqa: E731
    return KVCache(buffer(key_width), buffer(value_width), length)


def remember(
    cache: KVCache, k_BTGK: jax.Array, v_BTGV: jax.Array, positions_BT: jax.Array, valid_BT: jax.Array | None
) -> tuple[KVCache, jax.Array, jax.Array, jax.Array]:
    """The cache with new positions written in; and the keys, the values and their positions [B, S] (B may be 1) for the
    queries of these positions to look at.

    Positions of a row follow one another; where `valid_BT` is False they are padding on the right. A full cache takes
    that in too. A ring does not, since it would push out what is still needed.
    """
    slots = cache.key_BSGK.shape[1]
    if not cache.is_ring:
        cache = _each(cache, lambda buffer, new: write(buffer, new, positions_BT[:, 0]), k_BTGK, v_BTGV)
        return cache, cache.key_BSGK, cache.value_BSGV, jnp.arange(slots)[None]
    start_B = positions_BT[:, 0]
    if positions_BT.shape[1] == 1:
        # Padding may be written here: the slot's old position is out of reach, its new one gets overwritten.
        cache = _each(cache, lambda buffer, new: write(buffer, new, start_B % slots), k_BTGK, v_BTGV)
        return cache, cache.key_BSGK, cache.value_BSGV, slot_positions(start_B + 1, slots)
    # Several at once: the first of them still look at slots that the last of them will take.
    beside = lambda old, new: jnp.concatenate([old, new.astype(old.dtype)], axis=1)  # noqa: E731
    k_BSGK, v_BSGV = beside(cache.key_BSGK, k_BTGK), beside(cache.value_BSGV, v_BTGV)
    seen_BS = jnp.concatenate([slot_positions(start_B, slots), positions_BT], axis=1)
    count_B = positions_BT.shape[1] if valid_BT is None else valid_BT.sum(axis=1)
    held_BS = slot_positions(start_B + count_B, slots)
    cache = _each(cache, lambda buffer, new: _write_ring(buffer, new, held_BS, start_B), k_BTGK, v_BTGV)
    return cache, k_BSGK, v_BSGV, seen_BS


def slot_positions(next_B: jax.Array, slots: int) -> jax.Array:
    """The position that each slot of a ring holds when `next_B` is the next to come, [B, S]; NEVER for none yet."""
    back_BS = (next_B[:, None] - 1 - jnp.arange(slots)[None]) % slots
    held_BS = next_B[:, None] - 1 - back_BS
    return jnp.where(held_BS < 0, NEVER, held_BS)


def write(buffer: jax.Array, new: jax.Array, start_B: jax.Array) -> jax.Array:
    """Put each row's new entries [B, T, ...] into its slots from `start_B` on."""

    def row(slots, new, start):
        return jax.lax.dynamic_update_slice(slots, new.astype(slots.dtype), (start,) + (0,) * (slots.ndim - 1))

    return jax.vmap(row)(buffer, new, start_B)


def _write_ring(buffer: jax.Array, new: jax.Array, held_BS: jax.Array, start_B: jax.Array) -> jax.Array:
    """Each slot keeps its entry or takes that of the new position it holds from now on; one that holds NEVER takes
    something that nobody sees."""
    index_BS = held_BS - start_B[:, None]
    is_new_BS = index_BS >= 0
    index_BS = jnp.clip(index_BS, 0, new.shape[1] - 1)
    taken = jnp.take_along_axis(new, index_BS[:, :, None, None], axis=1).astype(buffer.dtype)
    return jnp.where(is_new_BS[:, :, None, None], taken, buffer)


def _each(cache: KVCache, update, k_BTGK: jax.Array, v_BTGV: jax.Array) -> KVCache:
    return cache.replace(key_BSGK=update(cache.key_BSGK, k_BTGK), value_BSGV=update(cache.value_BSGV, v_BTGV))
