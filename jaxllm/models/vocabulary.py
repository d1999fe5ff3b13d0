"""Another vocabulary for a model: rows of its tables kept, dropped, or made from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.config import ModelConfig
from jaxllm.models.declare import Param
from jaxllm.models.decoder import Decoder, decoder_spec


def remap_vocabulary(
    params: Decoder, config: ModelConfig, sources: Sequence[Sequence[int]]
) -> tuple[Decoder, ModelConfig]:
    """A model of `len(sources)` tokens; each starts as the mean of the old tokens that are its sources.

    A token that stays has itself as its only source, and keeps its rows to the bit. Of a new one, the pieces that its
    text was made of so far are good sources: the model then goes on about as before (Hewitt 2021). Every table with a
    vocabulary axis is remade: the embedding, and the head where it is not tied. Raises ValueError for a token without
    sources or with one out of range.
    """
    for token, old in enumerate(sources):
        if not old:
            raise ValueError(f"token {token} of the new vocabulary has no source")
        if not 0 <= min(old) <= max(old) < config.vocab_size:
            raise ValueError(
                f"token {token} has the sources {list(old)}; the model has ids 0 .. {config.vocab_size - 1}"
            )
    counts = np.array([len(old) for old in sources])
    flat = np.concatenate([np.asarray(old) for old in sources])
    owners = np.repeat(np.arange(len(sources)), counts)

    def remake(declared: Param, table: jax.Array) -> jax.Array:
        if "vocab" not in declared.axes:
            return table
        axis = declared.axes.index("vocab")
        rows = jnp.moveaxis(table, axis, 0)[flat].astype(jnp.promote_types(table.dtype, jnp.float32))
        sums = jax.ops.segment_sum(rows, owners, num_segments=len(sources))
        means = sums / counts.reshape(-1, *[1] * (rows.ndim - 1))
        return jnp.moveaxis(means.astype(table.dtype), 0, axis)

    remade = jax.tree.map(remake, decoder_spec(config), params)
    return remade, replace(config, vocab_size=len(sources))
