"""What layers with a state share: where documents begin, decays, and running a recurrence in chunks.

A chunk is computed in parallel, one chunk after another: the arrays that a parallel form needs exist for one chunk at a
time, in the backward pass too.

Shape letters: B batch, T time, C and S time within a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.models.declare import Initializer
from jaxllm.models.layer import Context

Step = Callable[[Any, Any], tuple[Any, Any]]
"""`(state, inputs) -> (state, outputs)`, of one position (inputs [B, ...]) or of a chunk of them ([B, C, ...])."""


def document_starts(context: Context, cache: Any) -> jax.Array | None:
    """Where another document begins than the one before it in the row, bool [B, T]; None: nowhere, as in a cache, whose
    rows are one document each."""
    ids_BT = context.segment_ids_BT
    if ids_BT is None or cache is not None:
        return None
    return jnp.pad(ids_BT[:, 1:] != ids_BT[:, :-1], ((0, 0), (1, 0)))


def resume(cache: Any, empty: Any, context: Context) -> Any:
    """What the cache holds of the text so far: nothing for rows that begin at position 0, whatever stood there."""
    fresh_B = context.positions_BT[:, 0] == 0
    choose = lambda kept, none: jnp.where(fresh_B.reshape(-1, *[1] * (kept.ndim - 1)), none, kept)  # noqa: E731
    return jax.tree.map(choose, cache, empty)


def blank_padding(x_BT: jax.Array, context: Context, cache: Any) -> jax.Array:
    """`x_BT` [B, T, ...] with zeros at padding. Without a cache no state is kept, so nothing needs to be blanked."""
    if cache is None or context.valid_BT is None:
        return x_BT
    return jnp.where(context.valid_BT.reshape(*x_BT.shape[:2], *[1] * (x_BT.ndim - 2)), x_BT, 0)


def run_recurrence(step: Step, chunk_step: Step, state: Any, inputs_BT: Any, chunk: int) -> tuple[Any, Any]:
    """The state after all positions of `inputs_BT` (a tree of [B, T, ...]), and the outputs [B, T, ...].

    One position is one `step`; more are chunks of at most `chunk` positions, each one `chunk_step`, which must do the
    same as its positions' steps. The last chunk is filled up with zeros, which must leave the state as it is.
    """
    B, T = jax.tree.leaves(inputs_BT)[0].shape[:2]
    if T == 1:
        state, out_B = step(state, jax.tree.map(lambda x: x[:, 0], inputs_BT))
        return state, jax.tree.map(lambda y: y[:, None], out_B)
    C = min(chunk, T)
    chunks = -(-T // C)

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, chunks * C - T), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(B, chunks, C, *x.shape[2:]), 1, 0)

    def join(y):
        return jnp.moveaxis(y, 0, 1).reshape(B, chunks * C, *y.shape[3:])[:, :T]

    state, out = jax.lax.scan(jax.checkpoint(chunk_step), state, jax.tree.map(split, inputs_BT))
    return state, jax.tree.map(join, out)


def reference_recurrence(step: Step, state: Any, inputs_BT: Any) -> tuple[Any, Any]:
    """The slow twin of `run_recurrence`: one step after another."""
    inputs_TB = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), inputs_BT)
    state, out_TB = jax.lax.scan(step, state, inputs_TB)
    return state, jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), out_TB)


@jax.custom_vjp
def linear_recurrence(decay_BC: jax.Array, input_BC: jax.Array) -> jax.Array:
    """`h_t = decay_t h_(t-1) + input_t` along axis 1, from h_(-1) = 0; the arrays broadcast against each other.

    Parallel (Blelloch 1990), and never divides by a decay, so decays may be as small as 0, which is how a document
    starts afresh. There is no forward-mode derivative.
    """
    return jax.lax.associative_scan(_in_sequence, (decay_BC, input_BC), axis=1)[1]


def _in_sequence(left, right):
    (left_decay, left_input), (right_decay, right_input) = left, right
    return left_decay * right_decay, right_decay * left_input + right_input


def _recurrence_forward(decay_BC, input_BC):
    state_BC = linear_recurrence(decay_BC, input_BC)
    return state_BC, (decay_BC, state_BC)


def _recurrence_backward(residuals, grad_BC):
    # The gradient of the state runs through the same decays, backwards in time.
    decay_BC, state_BC = residuals
    next_decay_BC = jnp.concatenate([decay_BC[:, 1:], jnp.zeros_like(decay_BC[:, :1])], axis=1)
    grad_BC = jax.lax.associative_scan(_in_sequence, (next_decay_BC, grad_BC), axis=1, reverse=True)[1]
    before_BC = jnp.concatenate([jnp.zeros_like(state_BC[:, :1]), state_BC[:, :-1]], axis=1)
    return _summed_to(grad_BC * before_BC, decay_BC.shape), grad_BC


linear_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _summed_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    broadcast = [axis for axis, size in enumerate(shape) if size != x.shape[axis]]
    return x.sum(broadcast, keepdims=True) if broadcast else x


def decays(log_decay_BC: jax.Array, starts_BC: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """How much is left, at each position of a chunk, of what was written at each other position and before the chunk.

    `log_decay_BC` [B, C, ...] is at most 0: the state is multiplied by its exponential before a position writes.
    Returns float32 `pair` [B, ..., C, S], 0 where position S is later than C or of another document, and `carry`
    [B, ..., C]. Only differences at most 0 are exponentiated, so nothing overflows.
    """
    # A pair's exponent is a difference of sums, which has few digits where the sums are large. They are kept small: a
    # factor below exp(-30) is nothing next to float32's rounding, and each document is summed for itself.
    log_decay_BC = jnp.maximum(log_decay_BC.astype(jnp.float32), -30)
    if starts_BC is None:
        total_BC = jnp.cumsum(log_decay_BC, axis=1)
    else:
        going_on_BC = jnp.where(starts_BC, 0.0, 1.0).reshape(*starts_BC.shape, *[1] * (log_decay_BC.ndim - 2))
        total_BC = linear_recurrence(going_on_BC, log_decay_BC)
    total_BC = jnp.moveaxis(total_BC, 1, -1)
    C = total_BC.shape[-1]
    seen_CS, carry_BC = jnp.tril(jnp.ones((C, C), bool)), jnp.exp(total_BC)
    if starts_BC is not None:
        document_BC = jnp.cumsum(starts_BC, axis=1).reshape(-1, *[1] * (total_BC.ndim - 2), C)
        seen_CS = seen_CS & (document_BC[..., :, None] == document_BC[..., None, :])
        carry_BC = jnp.where(document_BC == 0, carry_BC, 0)
    difference_BCS = jnp.where(seen_CS, total_BC[..., :, None] - total_BC[..., None, :], -jnp.inf)
    return jnp.exp(difference_BCS), carry_BC


def after_reset(state_B: jax.Array, starts_B: jax.Array | None) -> jax.Array:
    """The state that a step sees: zeros in rows where a document begins."""
    if starts_B is None:
        return state_B
    return jnp.where(starts_B.reshape(-1, *[1] * (state_B.ndim - 1)), 0, state_B)


def inverse_softplus_steps(shortest: float = 1e-3, longest: float = 1e-1) -> Initializer:
    """Biases whose softplus is a step size drawn log-uniformly between the two (Mamba, Gu and Dao 2023, 3.6)."""

    def draw(key, shape, dtype):
        exponent = jax.random.uniform(key, shape, jnp.float32, math.log(shortest), math.log(longest))
        step = jnp.exp(exponent)
        return (step + jnp.log(-jnp.expm1(-step))).astype(dtype)

    return draw
