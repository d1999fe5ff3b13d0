"""The likeliest next token, again and again, inside one program.

Shape letters: B batch, N new tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def write_greedily(
    advance: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    token_B: jax.Array,
    cache: Any,
    *,
    max_new_tokens: int,
    end_token: int,
    pad_token: int,
) -> jax.Array:
    """The tokens from `token_B` on, [B, N] int32: up to and with the end token, then padding. It stops when all rows
    have ended.

    `advance(token_B, cache)` takes the newest tokens in and gives the likeliest next ones. A negative end token never
    comes.
    """

    def unfinished(state):
        step, _, done_B, _, _ = state
        return (step < max_new_tokens) & ~done_B.all()

    def write(state):
        step, token_B, done_B, cache, written_BN = state
        token_B = jnp.where(done_B, pad_token, token_B)
        written_BN = written_BN.at[:, step].set(token_B)
        next_B, cache = advance(token_B, cache)
        return step + 1, next_B, done_B | (token_B == end_token), cache, written_BN

    written_BN = jnp.full((token_B.shape[0], max_new_tokens), pad_token, jnp.int32)
    start = (jnp.int32(0), token_B, jnp.zeros(token_B.shape, bool), cache, written_BN)
    return jax.lax.while_loop(unfinished, write, start)[-1]
