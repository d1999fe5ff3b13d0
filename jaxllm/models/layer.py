"""What every mixer offers, and what it is told about the tokens it works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct


@struct.dataclass
class Context:
    """Where the tokens of a batch stand; the same for all layers but for `layer`."""

    positions_BT: jax.Array
    """Position of each token in its document, or in its row of the cache."""
    segment_ids_BT: jax.Array | None
    """Which document of its row a token belongs to, 0 for padding; None: each row is one document. None with a
    cache."""
    valid_BT: jax.Array | None
    """False for padding on the right, which must leave no trace in a state; None: there is none."""
    layer: jax.Array | int = 0
    """Number of this layer in the model, from 0."""
    bias: jax.Array | None = None
    """Added to the scores of softmax attention, [1 or B, H, T, S]; None: nothing."""


Statistics = dict[str, jax.Array]
"""What a layer reports of a batch: scalars and vectors by name."""


def never(config: Any) -> bool:
    return False


class Layer(NamedTuple):
    """A kind of mixer, as functions of the model's config and its own.

    `spec(model, config)` declares the parameters. `empty_cache(model, config, batch, length)` is what it remembers of
    the tokens before, None where that is nothing. `apply(params, model, config, x_BTD, context, cache)` gives the
    branch [B, T, D], the cache with these tokens taken in (None when none came in: training) and statistics.

    With a cache, row b's tokens stand at `positions_BT[b]`, which follow one another; what the cache holds of earlier
    positions counts, what it holds of later ones does not.

    `along_text(config)` says whether it depends on the order in which tokens lie, beyond their positions: by a state, a
    convolution, or which of them come first.
    """

    spec: Callable[[Any, Any], Any]
    empty_cache: Callable[[Any, Any, int, int], Any]
    apply: Callable[..., tuple[jax.Array, Any, Statistics]]
    along_text: Callable[[Any], bool] = never


def always(config: Any) -> bool:
    return True


def no_cache(model: Any, config: Any, batch: int, length: int) -> None:
    """Of a layer that looks at one position at a time."""
    return
