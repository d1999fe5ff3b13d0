"""Rotary position embedding (Su et al. 2021, section 3.2.2) and the ways to stretch it beyond the trained length.

Two of them, dynamic NTK and LongRoPE, change with the length of the text. That length is what the text can come to, so
that all its queries and keys are turned alike however it arrives: the room of the cache, where there is one; without a
cache the last position of the document, plus 1.

Shape letters: B batch, T time, H heads, K head width, R turned pairs of a head.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.config import RopeConfig

Length = int | jax.Array


class Angles(NamedTuple):
    """By what `rotate` turns the pairs of each position: `rotate(x_BTHK, *angles)`."""

    cos: jax.Array
    sin: jax.Array
    interleaved: bool


def rope_angles(
    positions_BT: jax.Array,
    head_dim: int,
    rope: RopeConfig,
    context_length: int,
    length: Length | None = None,
) -> Angles:
    """Cosine and sine of each position's angles, [B, T, 1, R] in float32, times the attention factor.

    `context_length` is the model's; `length` is that of the text, a number or an array [B, T or 1], None to take it
    from each row's positions; only dynamic NTK and LongRoPE ask for it. Raises ValueError when LongRoPE's factors do
    not fit the head.
    """
    if length is None and depends_on_length(rope):
        length = text_lengths(positions_BT, None)
    frequencies = inverse_frequencies(rope, head_dim, context_length, length)
    if frequencies.ndim > 1:
        frequencies = frequencies[:, :, None]
    angles = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
    factor = attention_factor(rope, context_length)
    return Angles(jnp.cos(angles) * factor, jnp.sin(angles) * factor, rope.interleaved)


def rotate(x_BTHK: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Turn the first 2 R units of each head by its position's angles, pair by pair; same shape and type out.

    A pair is (i, i + R), as in Llama's checkpoints, or (2 i, 2 i + 1) when interleaved, as in DeepSeek's.
    """
    turned_width = 2 * cos.shape[-1]
    x, rest = x_BTHK[..., :turned_width].astype(jnp.float32), x_BTHK[..., turned_width:]
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        y = jnp.stack(turned, axis=-1).reshape(x.shape)
    else:
        y = jnp.concatenate(turned, axis=-1)
    y = y.astype(x_BTHK.dtype)
    return jnp.concatenate([y, rest], axis=-1) if rest.shape[-1] else y


def depends_on_length(rope: RopeConfig) -> bool:
    """Whether the frequencies change with the length of the text."""
    return rope.scaling in ("dynamic_ntk", "longrope")


def text_lengths(positions_BT: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
    """Length of the document each token belongs to, [B, T]; [B, 1] where a row is one document."""
    if segment_ids_BT is None:
        return positions_BT.max(axis=1, keepdims=True) + 1
    same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    return jnp.where(same_BTS, positions_BT[:, None, :], 0).max(axis=-1) + 1


def inverse_frequencies(
    rope: RopeConfig, head_dim: int, context_length: int, length: Length | None = None
) -> np.ndarray | jax.Array:
    """Radians a position of each pair, float32: [R], or [..., R] for a `length` of shape [...] where it matters."""
    width = int(head_dim * rope.fraction)
    steps = np.arange(0, width, 2) / width
    plain = rope.theta**-steps
    original = rope.original_context or context_length
    factor = stretch(rope, context_length)
    match rope.scaling:
        case "linear":  # Chen et al. 2023: every position is divided
            plain = plain / factor
        case "ntk":  # bloc97 2023: a larger base, so that the slowest pair is divided by the factor, the fastest by 1
            plain = plain * _base_change(factor, width)
        case "dynamic_ntk":
            longer = jnp.maximum(jnp.asarray(length, jnp.float32)[..., None] / original, 1)
            return (plain * _base_change(factor * longer - (factor - 1), width)).astype(jnp.float32)
        case "longrope":  # Ding et al. 2024, with factors that were searched for
            short, long = _longrope_divisors(rope, width)
            is_long = jnp.asarray(length)[..., None] > original
            return jnp.where(is_long, plain / long, plain / short).astype(jnp.float32)
        case "yarn":
            kept = _yarn_kept(rope, width, original)
            plain = plain * (kept + (1 - kept) / factor)
        case "llama3":
            turns = original * plain / (2 * math.pi)
            kept = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
            kept = np.clip(kept, 0, 1)
            plain = plain * (kept + (1 - kept) / factor)
    return plain.astype(np.float32)


def stretch(rope: RopeConfig, context_length: int) -> float:
    """How many times longer than `original_context`; YaRN and LongRoPE take it from the lengths if it is not given."""
    if rope.factor == 1 and rope.original_context and rope.scaling in ("yarn", "longrope"):
        return max(context_length / rope.original_context, 1.0)
    return rope.factor


def attention_factor(rope: RopeConfig, context_length: int) -> float:
    """The factor of cosine and sine, which makes scores larger by its square (YaRN, Peng et al. 2023, section 3.4)."""
    if rope.scaling not in ("yarn", "longrope"):
        return 1.0
    factor = stretch(rope, context_length)
    if rope.attention_factor:
        return rope.attention_factor
    if rope.scaling == "longrope":
        original = rope.original_context or context_length
        return math.sqrt(1 + math.log(factor) / math.log(original))
    if rope.mscale and rope.mscale_all_dim:
        return yarn_mscale(factor, rope.mscale) / yarn_mscale(factor, rope.mscale_all_dim)
    return yarn_mscale(factor)


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """1 + 0.1 weight ln(factor): how much sharper the softmax of a longer context wants to be."""
    return 1 + 0.1 * weight * math.log(factor)


def _base_change(ratio: float | jax.Array, width: int) -> np.ndarray | jax.Array:
    """What each frequency is multiplied by when the base grows by ratio ** (width / (width - 2))."""
    return ratio ** (-np.arange(0, width, 2) / max(width - 2, 1))


def _yarn_kept(rope: RopeConfig, width: int, original: int) -> np.ndarray:
    """How much of each frequency stays as it is: all of the fast ones, nothing of the slow ones (Peng et al. 2023,
    section 3.2), with the ramp laid over the pairs' numbers."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    # A ramp of no length would divide by zero; the thousandth is what published implementations take.
    ramp = (np.arange(width // 2) - low) / (high - low or 0.001)
    return 1 - np.clip(ramp, 0, 1)


def _longrope_divisors(rope: RopeConfig, width: int) -> tuple[np.ndarray, np.ndarray]:
    for name in ("short_factor", "long_factor"):
        given = len(getattr(rope, name))
        if given != width // 2:
            raise ValueError(
                f"rope.{name} has {given} divisors, but heads turn {width // 2} pairs of units: give one for each"
            )
    return np.asarray(rope.short_factor), np.asarray(rope.long_factor)
