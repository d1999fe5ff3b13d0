"""Training of language models that see: predict the next token of the text around images."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxllm.models.config import VisionLanguageConfig
from jaxllm.models.decoder import Remat
from jaxllm.models.vision_language import VisionLanguage, read
from jaxllm.objectives.logits import mean_cross_entropy

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def vision_language(
    config: VisionLanguageConfig, *, z_loss: float = 0.0, remat: Remat = "none"
) -> Callable[[VisionLanguage, Batch, jax.Array | None], tuple[jax.Array, Metrics]]:
    """The mean negative log-likelihood in nats of the weighted targets that are text, plus the z-loss.

    The batch is that of next-token prediction with `pixels` [N, H, W, C] of all its images in the order of their
    placeholders. A target that is a placeholder counts for nothing, whatever its weight. A key turns dropout on.
    """

    def objective(params: VisionLanguage, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        hidden = read(
            params,
            config,
            batch["tokens"],
            batch["pixels"],
            segment_ids=batch["segment_ids"],
            positions=batch["positions"],
            dropout_key=key,
            remat=remat,
        )
        weights_BT = batch["weights"] * (batch["targets"] != config.image_token)
        return mean_cross_entropy(params.text, config.text, hidden.x_BTD, batch["targets"], weights_BT, z_loss=z_loss)

    return objective
