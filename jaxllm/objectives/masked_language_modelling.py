"""Pretraining of encoders: restore the tokens that were hidden (BERT, Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxllm.models.config import EncoderConfig
from jaxllm.models.decoder import Remat
from jaxllm.models.encoder import Encoder, encode, transform
from jaxllm.objectives.logits import mean_cross_entropy

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
EncoderObjective = Callable[[Encoder, Batch, jax.Array | None], tuple[jax.Array, Metrics]]


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are to be restored, and what the encoder sees in their place."""

    mask_token: int = 0
    """What hides a token."""
    rate: float = 0.15
    """Share of the tokens that are chosen (0.3 in ModernBERT)."""
    masked: float = 0.8
    """Share of the chosen that are hidden."""
    replaced: float = 0.1
    """Share of the chosen that become another token drawn at random; the rest stays as it is."""
    special_tokens: tuple[int, ...] = ()
    """Ids that are never chosen and never drawn."""

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"masking.rate must be in (0, 1], got {self.rate}")
        if min(self.masked, self.replaced) < 0 or self.masked + self.replaced > 1:
            raise ValueError(
                f"masking.masked={self.masked} and masking.replaced={self.replaced} are shares of one whole"
            )


def mask_tokens(
    tokens_BT: jax.Array, segment_ids_BT: jax.Array, key: jax.Array, config: MaskingConfig, vocab_size: int
) -> tuple[jax.Array, jax.Array]:
    """What the encoder sees, int32 [B, T], and where a token was chosen, bool [B, T]; never at padding (segment 0)."""
    choose, kind, draw = jax.random.split(key, 3)
    special = jnp.asarray(config.special_tokens, jnp.int32)
    chosen_BT = jax.random.bernoulli(choose, config.rate, tokens_BT.shape) & (segment_ids_BT > 0)
    chosen_BT &= ~jnp.isin(tokens_BT, special)
    drawn_BT = jax.random.randint(draw, tokens_BT.shape, 0, vocab_size, tokens_BT.dtype)
    drawn_BT = jnp.where(jnp.isin(drawn_BT, special), tokens_BT, drawn_BT)
    share_BT = jax.random.uniform(kind, tokens_BT.shape)
    seen_BT = jnp.where(share_BT < config.masked, config.mask_token, tokens_BT)
    seen_BT = jnp.where((share_BT >= config.masked) & (share_BT < config.masked + config.replaced), drawn_BT, seen_BT)
    return jnp.where(chosen_BT, seen_BT, tokens_BT), chosen_BT


def masked_language_modelling(
    config: EncoderConfig, masking: MaskingConfig, *, remat: Remat = "none"
) -> EncoderObjective:
    """The mean negative log-likelihood in nats of the chosen tokens of a packed batch.

    The batch holds `tokens, segment_ids, positions`, each [B, T], as for next-token prediction, and perhaps
    `token_types`. A key draws other tokens each time and turns dropout on; without one the choice follows from the
    batch, so that evaluations agree. `metrics["weight"]` is the number of chosen tokens. Raises ValueError for an
    encoder without the head.
    """
    if not config.masked_head:
        raise ValueError("masked language modelling needs a head: set masked_head=true")

    def objective(params: Encoder, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        tokens_BT, segment_ids_BT = batch["tokens"], batch["segment_ids"]
        own_key = jax.random.fold_in(jax.random.key(0), tokens_BT.sum().astype(jnp.uint32))
        mask_key, dropout_key = (own_key, None) if key is None else jax.random.split(key)
        seen_BT, chosen_BT = mask_tokens(tokens_BT, segment_ids_BT, mask_key, masking, config.trunk.vocab_size)
        x_BTD = encode(
            params,
            config,
            seen_BT,
            segment_ids=segment_ids_BT,
            positions=batch["positions"],
            token_types=batch.get("token_types"),
            dropout_key=dropout_key,
            remat=remat,
        )
        x_BTD = transform(params, config, x_BTD)
        return mean_cross_entropy(params.trunk, config.trunk, x_BTD, tokens_BT, chosen_BT.astype(jnp.float32))

    return objective
