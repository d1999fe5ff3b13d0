"""Attention where each row lies on several devices: keys travel in a ring, are gathered, or heads are split instead.

What a query may see follows from positions and segments, which travel with the keys; so every form is exact for packed
documents, in whatever order the tokens lie, and blocks that nobody may see are left out on every device.

Shape letters: B batch, T time on one device, S key time, H query heads, G key/value heads, K width of queries and keys,
V width of values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxllm.kernels.blockwise_attention import (
    BLOCK,
    Scores,
    backward_blocks,
    beside_sinks,
    blockwise_attention,
    empty_partial,
    forward_blocks,
    inner_product,
    merge,
    sink_gradient,
)
from jaxllm.kernels.documents import run_numbers
from jaxllm.kernels.flash_attention import local_flash_attention
from jaxllm.kernels.visibility import Places, Reach
from jaxllm.parallel.sharding import Layout, on_each_device


def context_attention(
    layout: Layout,
    q_BTHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGV: jax.Array,
    places: Places,
    reach: Reach,
    *,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
    scale: float | None = None,
    block: int = BLOCK,
    kernel: Literal["blockwise", "flash"] = "blockwise",
) -> jax.Array:
    """What `blockwise_attention` gives, for arrays whose T is split as the layout's `length` says.

    `kernel` is what a device computes with; flash needs whole rows, so the layout's form must be ulysses, and the
    tokens must lie in the order of the text. Raises ValueError where `ulysses` cannot divide the heads.
    """
    axis = layout.rules.length
    heads = layout.rules.spec(("batch", "length", "act_heads", None))
    tokens = layout.rules.spec(("batch", "length"))
    # The two pieces that a device has are far apart in the text: a block in both would never be left out.
    block = min(block, max(1, q_BTHK.shape[1] // layout.ways("length") // 2))
    scores = Scores(reach, softcap, scale or 1 / math.sqrt(q_BTHK.shape[-1]), block)
    whole_rows = {"blockwise": _attend, "flash": _attend_by_flash}[kernel]
    form = {
        "ring": ring_attention,
        "all_gather": gathered_attention,
        "ulysses": partial(ulysses_attention, attend=whole_rows),
    }
    assert kernel == "blockwise" or layout.forms.context_form == "ulysses", kernel
    local = on_each_device(
        partial(form[layout.forms.context_form], scores, axis),
        layout,
        in_specs=(heads, heads, heads, None if sinks is None else PartitionSpec(layout.rules.act_heads), tokens),
        out_specs=heads,
    )
    whole = jnp.broadcast_to(places.positions_BT, q_BTHK.shape[:2])
    segments = jnp.zeros_like(whole) if places.segment_ids_BT is None else places.segment_ids_BT
    return local(q_BTHK, k_BTGK, v_BTGV, sinks, Places(whole, segments))


# Each form is run on one device's part, with the name of the mesh axis that splits the text.


def gathered_attention(scores: Scores, axis: str, q_BTHK, k_BTGK, v_BTGV, sinks, places: Places) -> jax.Array:
    """Every device gathers all keys and values; gradients of these are reduced and scattered (Llama 3, 3.3.2)."""
    gather = partial(lax.all_gather, axis_name=axis, axis=1, tiled=True)
    return _attend(scores, q_BTHK, gather(k_BTGK), gather(v_BTGV), sinks, places, jax.tree.map(gather, places))


def ulysses_attention(
    scores: Scores, axis: str, q_BTHK, k_BTGK, v_BTGV, sinks, places: Places, *, attend: Callable
) -> jax.Array:
    """Heads are split over the devices instead of the text, and back (DeepSpeed Ulysses, Jacobs et al. 2023).

    Key/value heads that are fewer than the devices are repeated first.
    """
    ways, (H, G) = lax.axis_size(axis), (q_BTHK.shape[2], k_BTGK.shape[2])
    if H % ways or (G % ways and ways % G):
        raise ValueError(
            f"mesh.context={ways} with mesh.context_form=ulysses does not divide the {H} query heads and {G} key/value "
            "heads of a device: change --mesh.context, or take the form ring or all_gather"
        )
    if G % ways:
        k_BTGK, v_BTGV = (jnp.repeat(x, ways // G, axis=2) for x in (k_BTGK, v_BTGV))
    to_heads = partial(lax.all_to_all, axis_name=axis, split_axis=2, concat_axis=1, tiled=True)
    places = jax.tree.map(partial(lax.all_gather, axis_name=axis, axis=1, tiled=True), places)
    if sinks is not None:
        sinks = lax.dynamic_slice_in_dim(sinks, lax.axis_index(axis) * (H // ways), H // ways)
    mixed = attend(scores, to_heads(q_BTHK), to_heads(k_BTGK), to_heads(v_BTGV), sinks, places, places)
    return lax.all_to_all(mixed, axis, split_axis=1, concat_axis=2, tiled=True)


def _attend(scores: Scores, q_BTHK, k_BSGK, v_BSGV, sinks, query: Places, key: Places) -> jax.Array:
    return blockwise_attention(
        q_BTHK,
        k_BSGK,
        v_BSGV,
        query,
        key,
        scores.reach,
        softcap=scores.softcap,
        sinks=sinks,
        scale=scores.scale,
        block=scores.block,
    )


def _attend_by_flash(scores: Scores, q_BTHK, k_BTGK, v_BTGV, sinks, query: Places, key: Places) -> jax.Array:
    reach = scores.reach
    ids_BT = run_numbers(query.positions_BT, query.segment_ids_BT, reach.chunk)
    seen = {"causal": reach.causal, "window": reach.window, "softcap": scores.softcap, "scale": scores.scale}
    return local_flash_attention(q_BTHK, k_BTGK, v_BTGV, ids_BT, sinks, **seen)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ring_attention(scores: Scores, axis: str, q_BTHK, k_BTGK, v_BTGV, sinks, places: Places) -> jax.Array:
    """Each device works on its neighbour's keys while they are on their way to the next (Liu et al. 2023).

    No device ever holds more than two parts of the keys, in the backward pass neither: there the gradients of keys and
    values travel along with them, and are home after a whole turn.
    """
    return _ring_forward(scores, axis, q_BTHK, k_BTGK, v_BTGV, sinks, places)[0]


def _ring_forward(scores, axis, q_BTHK, k_BTGK, v_BTGV, sinks, places):
    def take_in(whole, held):
        k, v, stacked = held
        return merge(whole, forward_blocks(scores, q_BTHK, k, v, places, Places(*stacked)))

    def step(carry, _):
        whole, held = carry
        return (take_in(whole, held), _passed_on(held, axis)), None

    held = (k_BTGK, v_BTGV, _stacked(places))
    start = (empty_partial(q_BTHK, v_BTGV), held)
    (whole, held), _ = lax.scan(step, start, length=lax.axis_size(axis) - 1)
    whole = beside_sinks(take_in(whole, held), sinks)
    out_BTHV = whole.mean_BTHV.astype(v_BTGV.dtype)
    return out_BTHV, (q_BTHK, k_BTGK, v_BTGV, sinks, places, out_BTHV, whole.log_weight_BTH)


def _ring_backward(scores, axis, residuals, cotangent_BTHV):
    q_BTHK, k_BTGK, v_BTGV, sinks, places, out_BTHV, log_weight_BTH = residuals
    inner_BTH = inner_product(out_BTHV, cotangent_BTHV)
    cotangent_BTHV = cotangent_BTHV.astype(v_BTGV.dtype)

    def take_in(grad_q, held, grads):
        k, v, stacked = held
        new_q, *new = backward_blocks(
            scores, q_BTHK, k, v, places, Places(*stacked), log_weight_BTH, inner_BTH, cotangent_BTHV
        )
        return grad_q + new_q, jax.tree.map(jnp.add, grads, tuple(new))

    def step(carry, _):
        grad_q, held, grads = carry
        grad_q, grads = take_in(grad_q, held, grads)
        return (grad_q, _passed_on(held, axis), _passed_on(grads, axis)), None

    zeros = lambda x: jnp.zeros(x.shape, jnp.float32)  # noqa: E731
    start = (zeros(q_BTHK), (k_BTGK, v_BTGV, _stacked(places)), (zeros(k_BTGK), zeros(v_BTGV)))
    (grad_q, held, grads), _ = lax.scan(step, start, length=lax.axis_size(axis) - 1)
    grad_q, grads = take_in(grad_q, held, grads)
    grad_k, grad_v = _passed_on(grads, axis)
    # All devices that split the text share the sinks; the caller sums what each finds.
    grad_sinks = sink_gradient(sinks, log_weight_BTH, inner_BTH)
    return (
        grad_q.astype(q_BTHK.dtype),
        grad_k.astype(k_BTGK.dtype),
        grad_v.astype(v_BTGV.dtype),
        grad_sinks,
        None,
    )


ring_attention.defvjp(_ring_forward, _ring_backward)


def _stacked(places: Places) -> jax.Array:
    """Positions and segments as one array, which travels in one message."""
    return jnp.stack([places.positions_BT, places.segment_ids_BT])


def _passed_on(tree, axis: str):
    """To the next device of the ring."""
    ways = lax.axis_size(axis)
    return jax.tree.map(lambda x: lax.ppermute(x, axis, [(i, (i + 1) % ways) for i in range(ways)]), tree)
