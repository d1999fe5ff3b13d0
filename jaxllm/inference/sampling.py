"""From logits to a token: penalty, temperature and the three truncations, for each row of a batch by its own settings.

Shape letters: B batch, V rows of the vocabulary table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

MASKED = float("-inf")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen. The default draws from the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits: below 1 sharpens, above 1 flattens, 0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Draw among the k likeliest tokens, and those that tie with the last of them; 0 means all."""
    top_p: float = 1.0
    """Draw among the fewest tokens whose probabilities reach this sum; 1 means all."""
    min_p: float = 0.0
    """Draw among tokens at least this fraction as likely as the likeliest; 0 means all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that occur in the prompt or the answer less likely, below 1 more; 1 leaves them alone."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{field.name} must be a finite number, got {value!r}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if self.top_k != int(self.top_k) or not 0 <= self.top_k < 2**31:
            raise ValueError(f"top_k must be 0 (off) or a whole number of tokens, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1 (off), got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 (off) and 1, got {self.min_p}")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0 (1 is off), got {self.repetition_penalty}")


@struct.dataclass
class Sampling:
    """The settings of each row as arrays, so that another temperature is another argument and not another
    compilation."""

    temperature_B: Float[Array, " B"]
    top_k_B: Int[Array, " B"]
    top_p_B: Float[Array, " B"]
    min_p_B: Float[Array, " B"]
    repetition_penalty_B: Float[Array, " B"]


def as_arrays(configs: Sequence[SamplingConfig]) -> Sampling:
    """One row per config."""
    column = lambda name, dtype: np.array([getattr(config, name) for config in configs], dtype)  # noqa: E731
    return Sampling(
        temperature_B=column("temperature", np.float32),
        top_k_B=column("top_k", np.int32),
        top_p_B=column("top_p", np.float32),
        min_p_B=column("min_p", np.float32),
        repetition_penalty_B=column("repetition_penalty", np.float32),
    )


def sample(
    logits_BV: Float[Array, "B V"],
    sampling: Sampling,
    seen_BV: Bool[Array, "B V"],
    keys_B: Array,
    *,
    vocab_size: int,
) -> Int[Array, " B"]:
    """A token for each row, int32 below `vocab_size`: the table may have more rows than there are tokens.

    `seen_BV` marks the tokens that the repetition penalty applies to; `keys_B` are typed random keys. A row's token
    depends on nothing but its own logits, settings, marks and key.
    """
    V = logits_BV.shape[-1]
    logits_BV = penalize(logits_BV, seen_BV, sampling.repetition_penalty_B)
    logits_BV = jnp.where(jnp.arange(V) < vocab_size, logits_BV, MASKED)
    greedy_B = sampling.temperature_B == 0

    def draw():
        # Noise belongs to the token, not to its rank: another setting or a rounding error elsewhere does not reshuffle
        # it.
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, (V,)))(keys_B)
        drawn_BV = truncate(logits_BV, sampling) + noise_BV
        return jnp.argmax(jnp.where(greedy_B[:, None], logits_BV, drawn_BV), axis=-1)

    tokens_B = jax.lax.cond(jnp.all(greedy_B), lambda: jnp.argmax(logits_BV, axis=-1), draw)
    return tokens_B.astype(jnp.int32)


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Divide the positive logits of seen tokens by the penalty and multiply the negative ones.

    Source: CTRL, Keskar et al. 2019, section 4.1, with the change of sign that Hugging Face and vLLM make.
    """
    penalty_B1 = penalty_B[:, None]
    penalized = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, penalized, logits_BV)


def truncate(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits over the temperature, less their maximum; minus infinity where top-k, then top-p, then min-p rule the
    token out.

    The order and the definitions are those of Hugging Face `generate`: each filter sees the distribution that the one
    before left, renormalized; tokens that tie with the k-th stay; the likeliest token always stays. (vLLM has the same
    filters, with min-p before the other two.) Of tokens that tie at the edge of the nucleus the lowest ids stay.
    Sources: top-k, Fan et al. 2018; top-p, Holtzman et al. 2020, section 3.1; min-p, Nguyen et al. 2024.
    """
    temperature_B = jnp.where(sampling.temperature_B == 0, 1, sampling.temperature_B)
    # The maximum goes first: a tiny temperature then gives 0 and -inf rather than inf and NaN.
    scaled_BV = (logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / temperature_B[:, None]
    unchanged = lambda scaled_BV, _: scaled_BV  # noqa: E731
    scaled_BV = jax.lax.cond(jnp.any(sampling.top_k_B > 0), _top_k, unchanged, scaled_BV, sampling.top_k_B)
    scaled_BV = jax.lax.cond(jnp.any(sampling.top_p_B < 1), _top_p, unchanged, scaled_BV, sampling.top_p_B)
    return jnp.where(scaled_BV >= jnp.log(sampling.min_p_B)[:, None], scaled_BV, MASKED)


def _top_k(scaled_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    order_BV = _order(scaled_BV)
    edge_B1 = _highest(order_BV, jnp.ones_like(scaled_BV), top_k_B[:, None])
    return jnp.where((order_BV >= edge_B1) | (top_k_B[:, None] == 0), scaled_BV, MASKED)


def _top_p(scaled_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    order_BV, mass_BV = _order(scaled_BV), jnp.exp(scaled_BV)
    enough_B1 = top_p_B[:, None] * mass_BV.sum(-1, keepdims=True)
    edge_B1 = _highest(order_BV, mass_BV, enough_B1)
    above_BV = order_BV > edge_B1
    tied_BV = jnp.where(order_BV == edge_B1, mass_BV, 0)
    before_BV = jnp.sum(mass_BV, axis=-1, where=above_BV, keepdims=True) + jnp.cumsum(tied_BV, axis=-1) - tied_BV
    kept_BV = above_BV | ((tied_BV > 0) & (before_BV < enough_B1))
    # At top_p = 1 rounding would find the sum complete before the tail, so that is a case of its own.
    return jnp.where(kept_BV | (top_p_B[:, None] >= 1), scaled_BV, MASKED)


def _highest(order_BV: jax.Array, mass_BV: jax.Array, enough_B1: jax.Array) -> jax.Array:
    """The highest bar, uint32 [B, 1], such that the tokens at or above it have `enough` mass.

    Both filters ask for nothing more, so the vocabulary need not be sorted (ten times slower on a CPU, and slow on
    accelerators): the bar is settled bit by bit from the top, as in a radix select.
    """

    def settle(i, bar_B1):
        higher_B1 = bar_B1 | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        mass_B1 = jnp.sum(mass_BV, axis=-1, where=order_BV >= higher_B1, keepdims=True)
        return jnp.where(mass_B1 >= enough_B1, higher_B1, bar_B1)

    return jax.lax.fori_loop(0, 32, settle, jnp.zeros((order_BV.shape[0], 1), jnp.uint32))


def _order(x: jax.Array) -> jax.Array:
    """Floats as uint32 in the same order: the bits of a positive number ascend, those of a negative one descend."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 0, bits | jnp.uint32(1 << 31), ~bits)
