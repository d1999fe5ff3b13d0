"""Training of encoder-decoders: write the target, given the source and what stands before each token."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxllm.models.config import EncoderDecoderConfig
from jaxllm.models.decoder import Remat
from jaxllm.models.encoder_decoder import EncoderDecoder, decode, encode, shift_right
from jaxllm.objectives.logits import mean_cross_entropy

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def sequence_to_sequence(
    config: EncoderDecoderConfig, *, z_loss: float = 0.0, remat: Remat = "none"
) -> Callable[[EncoderDecoder, Batch, jax.Array | None], tuple[jax.Array, Metrics]]:
    """The mean negative log-likelihood in nats of the weighted tokens of the targets, plus the z-loss.

    The batch holds `source` and `source_segment_ids`, [B, S], `targets` and `weights`, [B, T]. One pair stands in a
    row: segment 1, and 0 for padding; the end token is part of the targets. The decoder reads the targets shifted to
    the right. A key turns dropout on.
    """

    def objective(params: EncoderDecoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        keys = (None, None) if key is None else jax.random.split(key)
        memory = encode(
            params, config, batch["source"], segment_ids=batch["source_segment_ids"], dropout_key=keys[0], remat=remat
        )
        inputs_BT = shift_right(config, batch["targets"])
        hidden = decode(params, config, inputs_BT, memory=memory, dropout_key=keys[1], remat=remat)
        stack = params.decoder.replace(embedding=params.embedding)
        return mean_cross_entropy(
            stack, config.decoder, hidden.x_BTD, batch["targets"], batch["weights"], z_loss=z_loss
        )

    return objective
