"""The output head as one matrix, for a cross-entropy that knows nothing but a product."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.models import ModelConfig
from jaxllm.models.decoder import Decoder, output_head
from jaxllm.models.mup import logit_multiplier


def stream_and_head(params: Decoder, config: ModelConfig, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A stream [B, T, D'] and a head [V, D'] whose products are the logits that `unembed` gives.

    The scale of the logits goes into the stream; their bias becomes one more column of the head, which the stream meets
    with a one. Raises ValueError for logits that are capped: no product makes those.
    """
    if config.head.softcap:
        raise ValueError("logits with head.softcap are no product of a stream and a head")
    scale, head_VD = config.head.scale * logit_multiplier(config), output_head(params)
    if params.head_bias is not None:
        # The bias is scaled as well, as `unembed` has it.
        x_BTD = jnp.concatenate([x_BTD, jnp.ones_like(x_BTD[..., :1])], axis=-1)
        head_VD = jnp.concatenate([head_VD, params.head_bias[:, None].astype(head_VD.dtype)], axis=-1)
    return (x_BTD if scale == 1 else x_BTD * jnp.asarray(scale, x_BTD.dtype)), head_VD
