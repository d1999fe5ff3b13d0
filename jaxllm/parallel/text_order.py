"""Which tokens of a row lie on which device of the context axis.

Under causal attention a late token sees more keys than an early one. So the text is cut into twice as many pieces as
there are devices, and each takes one from either end (Llama 3, section 3.3.2): that is the placed order, in which all
activations lie. Layers that go along the text ask for the order of the text.

Shape letters: B batch, T time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxllm.parallel.sharding import Layout, constrain, current_layout


def zigzag(length: int, ways: int) -> np.ndarray:
    """The index in the text of the token at each place: pieces 0 and 2N - 1 first, then 1 and 2N - 2, and so on.

    Raises ValueError for a length that does not fall into 2N pieces.
    """
    if length % (2 * ways):
        raise ValueError(
            f"a row of {length} tokens cannot be cut into {2 * ways} pieces, two for each of the {ways} devices of the "
            "context axis: change model.context_length or --mesh.context, or set --mesh.context_order=text"
        )
    pieces = np.arange(length).reshape(2 * ways, -1)
    return np.stack([pieces[:ways], pieces[::-1][:ways]], axis=1).reshape(-1)


def arrange(batch: Any) -> Any:
    """A batch of [B, T] arrays in the order of the text, in placed order."""
    return jax.tree.map(in_placed_order, batch)


def in_text_order(x_BT: jax.Array) -> jax.Array:
    """An array [B, T, ...] in placed order, in the order of the text, its rows whole on each device."""
    order = _order(x_BT)
    x_BT = _with_whole_rows(x_BT)
    return x_BT if order is None else x_BT[:, np.argsort(order)]


def in_placed_order(x_BT: jax.Array) -> jax.Array:
    """An array [B, T, ...] in the order of the text, in placed order."""
    order = _order(x_BT)
    return x_BT if order is None else x_BT[:, order]


def splits_text(layout: Layout | None) -> bool:
    """Whether rows lie on several devices."""
    return layout is not None and layout.ways("length") > 1


def _order(x_BT: jax.Array) -> np.ndarray | None:
    layout = current_layout()
    if not splits_text(layout) or layout.forms.context_order == "text":
        return None
    if layout.forms.context_form == "ulysses":  # splits heads, so every device has all of the text anyway
        return None
    return zigzag(x_BT.shape[1], layout.ways("length"))


def _with_whole_rows(x_BT: jax.Array) -> jax.Array:
    if not splits_text(current_layout()):
        return x_BT
    return constrain(x_BT, "batch" if x_BT.shape[0] > 1 else None, *[None] * (x_BT.ndim - 1))
