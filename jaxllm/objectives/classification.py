"""Training of an encoder to tell classes of texts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.models.config import EncoderConfig
from jaxllm.models.decoder import Remat
from jaxllm.models.encoder import Encoder, classify, encode
from jaxllm.objectives.masked_language_modelling import Batch, EncoderObjective, Metrics


def classification(config: EncoderConfig, *, label_smoothing: float = 0.0, remat: Remat = "none") -> EncoderObjective:
    """The mean negative log-likelihood in nats of the texts' classes.

    The batch holds `tokens` and `segment_ids`, [B, T], one text a row with 0 in `segment_ids` for padding, `labels` [B]
    or [B, 1], where a negative one does not count, and perhaps `token_types`. Label smoothing spreads that share of
    each target over all classes (Szegedy et al. 2016). Raises ValueError for an encoder without a classifier.
    """
    if not config.num_classes:
        raise ValueError("classification needs a classifier: set num_classes")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")

    def objective(params: Encoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        mask_BT = batch["segment_ids"] > 0
        x_BTD = encode(
            params,
            config,
            batch["tokens"],
            mask=mask_BT,
            token_types=batch.get("token_types"),
            dropout_key=key,
            remat=remat,
        )
        logits_BC = classify(params, config, x_BTD, mask_BT)
        labels_B = batch["labels"].reshape(-1)
        counts_B = (labels_B >= 0).astype(jnp.float32)
        log_probabilities_BC = jax.nn.log_softmax(logits_BC, axis=-1)
        of_label_B = jnp.take_along_axis(log_probabilities_BC, jnp.maximum(labels_B, 0)[:, None], axis=-1)[:, 0]
        nll_B = -(1 - label_smoothing) * of_label_B - label_smoothing * log_probabilities_BC.mean(-1)
        weight = counts_B.sum()
        divisor = jnp.maximum(weight, 1.0)
        correct = ((logits_BC.argmax(-1) == labels_B) * counts_B).sum()
        metrics = {"nll": -(of_label_B * counts_B).sum() / divisor, "accuracy": correct / divisor, "weight": weight}
        return (nll_B * counts_B).sum() / divisor, metrics

    return objective
