"""Rows travel to the devices of their experts and back, over the mesh axis that splits the experts.

Each device has its own tokens and its own experts. It sorts its rows by expert, so those for one device stand together;
sends them; and puts what it receives in the order of its experts. How much goes where is known to all from one gather
of counts. In the padded form every pair of devices exchanges a block of equal size (an all-to-all, which every platform
has); in the ragged form as many rows as there are. Sources: GShard, Lepikhin et al. 2021; MegaBlocks, Gale et al. 2022.

Shape letters: R rows of this device sorted by expert, M rows that this device has room to receive, D model width,
E experts, L experts of a device, P devices of the axis.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxllm.parallel.sharding import Forms


@struct.dataclass
class Exchange:
    """Who sends how much to whom, as one device sees it. Places of rows are -1 where there is none."""

    slot_R: jax.Array
    """Padded: where each row goes in the blocks to be sent."""
    row_M: jax.Array
    """Padded: which row each place of the blocks holds."""
    order_M: jax.Array
    """Which received place stands where in the order of this device's experts."""
    place_M: jax.Array
    """The inverse of it."""
    expert_M: jax.Array
    """This device's expert of each row in that order; L for none."""
    sizes_L: jax.Array
    """Rows of each of this device's experts."""
    kept: jax.Array
    """Rows of this device that found room."""
    to: tuple[jax.Array, ...]
    """Ragged: offsets and sizes of what is sent and received, in the order that ragged_all_to_all takes them."""
    back: tuple[jax.Array, ...]
    form: Literal["padded", "ragged"] = struct.field(pytree_node=False)
    axis: str = struct.field(pytree_node=False)


def plan_exchange(forms: Forms, axis: str, sorted_R: jax.Array, sizes_E: jax.Array) -> Exchange:
    """From the expert of each row, in order, and the rows of each expert; padding has expert E and goes nowhere."""
    (R,), (E,), P = sorted_R.shape, sizes_E.shape, lax.axis_size(axis)
    L, me = E // P, lax.axis_index(axis)
    block = min(R, math.ceil(forms.exchange_room * R / P)) if forms.exchange_room else R
    M = P * block
    count_PPL = lax.all_gather(sizes_E, axis).reshape(P, P, L)  # from, to, expert of the latter
    count_PP = count_PPL.sum(-1)
    start_PP = _before(count_PP, 1)  # where the rows for a device stand among a device's own
    if forms.exchange == "padded":
        sent_PP = jnp.minimum(count_PP, block)
        arrival_P = block * jnp.arange(P)
    else:
        # Room is given in the order of the senders, which all devices compute alike.
        sent_PP = jnp.clip(M - _before(count_PP, 0), 0, count_PP)
        arrival_P = _before(sent_PP, 0)[:, me]
    received_PL = jnp.diff(jnp.minimum(_upto(count_PPL[:, me]), sent_PP[:, me, None]), axis=1)
    expert_M = _expert_of_places(arrival_P, received_PL, M)
    order_M = jnp.argsort(expert_M, stable=True)

    target_R = jnp.minimum(sorted_R // L, P - 1)
    rank_R = jnp.arange(R) - start_PP[me, target_R]
    fits_R = (sorted_R < E) & (rank_R < sent_PP[me, target_R])
    target_M, rank_M = jnp.arange(M) // block, jnp.arange(M) % block
    filled_M = rank_M < sent_PP[me, target_M]
    output_PP = _before(sent_PP, 0)  # where a sender's rows begin at a receiver
    return Exchange(
        slot_R=jnp.where(fits_R, target_R * block + rank_R, -1),
        row_M=jnp.where(filled_M, start_PP[me, target_M] + rank_M, -1),
        order_M=order_M,
        place_M=jnp.argsort(order_M),
        expert_M=expert_M[order_M],
        sizes_L=received_PL.sum(0).astype(jnp.int32),
        kept=sent_PP[me].sum(),
        to=(start_PP[me], sent_PP[me], output_PP[me], sent_PP[:, me]),
        back=(arrival_P, sent_PP[:, me], start_PP[:, me], sent_PP[me]),
        form=forms.exchange,
        axis=axis,
    )


def send(exchange: Exchange, x_RD: jax.Array) -> jax.Array:
    """Rows to the devices of their experts, [M, D] in the order of these experts; zeros where there is none."""
    if exchange.form == "padded":
        x_MD = _across(exchange, moved(x_RD, exchange.row_M, exchange.slot_R))
    else:
        x_MD = _ragged(exchange, x_RD, exchange.order_M.shape[0], exchange.to)
    return moved(x_MD, exchange.order_M, exchange.place_M)


def send_back(exchange: Exchange, y_MD: jax.Array) -> jax.Array:
    """What experts made of the rows, [R, D] where these came from; zeros for those that found no room."""
    y_MD = moved(y_MD, exchange.place_M, exchange.order_M)
    if exchange.form == "padded":
        return moved(_across(exchange, y_MD), exchange.slot_R, exchange.row_M)
    return _ragged(exchange, y_MD, exchange.slot_R.shape[0], exchange.back)


def _across(exchange: Exchange, x_MD: jax.Array) -> jax.Array:
    return lax.all_to_all(x_MD, exchange.axis, split_axis=0, concat_axis=0, tiled=True)


def _ragged(exchange: Exchange, x: jax.Array, rows: int, amounts: tuple[jax.Array, ...]) -> jax.Array:
    amounts = tuple(amount.astype(jnp.int32) for amount in amounts)
    return lax.ragged_all_to_all(x, jnp.zeros((rows, x.shape[1]), x.dtype), *amounts, axis_name=exchange.axis)


# The derivative of a gather is a scatter, which is slow. Rows have one place each, so here it is a gather too.


@jax.custom_vjp
def moved(x_ND: jax.Array, source_M: jax.Array, target_N: jax.Array) -> jax.Array:
    """Row `source_M[m]` at place m, zeros where that is -1; `target_N` is its inverse."""
    return jnp.where(source_M[:, None] >= 0, x_ND[jnp.maximum(source_M, 0)], 0)


moved.defvjp(
    lambda x, source, target: (moved(x, source, target), (source, target)),
    lambda places, g: (moved(g, places[1], places[0]), None, None),
)


def _expert_of_places(arrival_P: jax.Array, received_PL: jax.Array, places: int) -> jax.Array:
    """The expert of each received place: rows of a sender stand from its arrival on, in the order of experts."""
    L = received_PL.shape[1]
    start = (arrival_P[:, None] + _before(received_PL, 1)).reshape(-1)
    place_M = jnp.arange(places)
    # Of groups that begin together all but the last are empty.
    group_M = jnp.searchsorted(start, place_M, side="right") - 1
    inside_M = place_M < start[group_M] + received_PL.reshape(-1)[group_M]
    return jnp.where(inside_M, group_M % L, L)


def _before(count: jax.Array, axis: int) -> jax.Array:
    """The sum of what stands before, along an axis."""
    return jnp.cumsum(count, axis) - count


def _upto(count_PL: jax.Array) -> jax.Array:
    """Sums of the first 0, 1, ... L, [P, L + 1]."""
    return jnp.pad(jnp.cumsum(count_PL, 1), ((0, 0), (1, 0)))
