"""Which keys a query may see, as a mask.

Shape letters: B batch, T query time, S key time.
"""

from __future__ import annotations

import jax

from jaxllm.kernels import visibility
from jaxllm.kernels.visibility import Places, Reach


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
    query, key = Places(query_positions, segment_ids), Places(key_positions, segment_ids)
    return visibility.visible(query, key, Reach(causal, window, chunk))
