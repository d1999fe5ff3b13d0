"""Guessing several tokens at once with the multi-token modules, for a model that checks them afterwards.

Shape letters: B batch, T time, D further tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxllm.models.config import ModelConfig
from jaxllm.models.decoder import Decoder, Hidden, token_rows, unembed
from jaxllm.models.layer import Context
from jaxllm.models.multi_token import run_modules


def draft(params: Decoder, config: ModelConfig, hidden: Hidden, tokens: Int[Array, "B T"]) -> Int[Array, "B 1+D"]:
    """The likeliest next token of each row, which is the main model's, and the D that the modules guess after it.

    `hidden` are the states of the rows, each one whole document without padding, as `hidden_states` gives them without
    a cache; the modules run over all of the text. Raises ValueError for a model without modules.
    """
    if params.multi_token is None:
        raise ValueError("this model has no multi-token modules to draft with (model.multi_token is null)")
    B, T = tokens.shape
    context = Context(jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T)), None, None)
    drafted: list[jax.Array] = []

    def likeliest(x_BTD):
        return unembed(params, config, x_BTD[:, -1:]).argmax(-1).astype(tokens.dtype)

    def embeddings(depth, x_BTD):
        drafted.append(likeliest(x_BTD))
        text = jnp.concatenate([tokens, *drafted], axis=1)
        rows_BTD = token_rows(params, config, text[:, depth:])
        return rows_BTD * jnp.asarray(config.embedding.scale, rows_BTD.dtype)

    runs = run_modules(params.multi_token, config, hidden.x_BTD, hidden.stream_BTD, context, embeddings)
    states = [hidden.x_BTD, *(x_BTD for x_BTD, _ in runs)]
    return jnp.concatenate([likeliest(x_BTD) for x_BTD in states], axis=1)
