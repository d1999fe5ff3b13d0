"""RWKV-4's time mixing: an average of values, weighted by keys, that forgets exponentially (Peng et al. 2023).

Shape letters: B batch, T time, C time within a chunk, D model width, I channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import ModelConfig, RWKVConfig
from jaxllm.models.declare import Initializer, Param
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.causal_convolution import empty_history, new_history, previous_token
from jaxllm.models.mixers.recurrence import document_starts, linear_recurrence, resume, run_recurrence
from jaxllm.parallel.sharding import constrain

NOTHING = -1e38  # the peak of an empty average: finite, so that its difference to itself is 0


@struct.dataclass
class RWKV:
    mix_key: jax.Array
    mix_value: jax.Array
    mix_receptance: jax.Array
    key: jax.Array
    value: jax.Array
    receptance: jax.Array
    decay: jax.Array  # the logarithm of the rate
    bonus: jax.Array
    out: jax.Array


@struct.dataclass
class Average:
    """Sums of exp(key - peak) value and of exp(key - peak), decayed; the peak is the largest exponent, decayed too."""

    numerator_BI: jax.Array
    denominator_BI: jax.Array
    peak_BI: jax.Array


@struct.dataclass
class RWKVCache:
    """Of one layer: the state in float32, and the vector of the token before."""

    average: Average
    history_B1D: jax.Array


@struct.dataclass
class Tokens:
    key_BTI: jax.Array
    value_BTI: jax.Array
    starts_BT: jax.Array | None
    counts_BT: jax.Array
    """False for padding, which leaves the average as it is."""


def rwkv_spec(model: ModelConfig, config: RWKVConfig) -> RWKV:
    """The declarations of one layer. Initial mixes and decays depend on the layer's depth, which is taken to be its
    place among the layers that it is stacked with."""
    D, inner = model.d_model, config.d_attention or model.d_model
    inward = Param((D, inner), ("embed", "inner"), out_of_stream(model, fan_in=D))
    mix = lambda start: Param((D,), ("residual",), by_depth(start))  # noqa: E731
    return RWKV(
        mix_key=mix(initial_mix),
        mix_value=mix(lambda share, layer, layers: initial_mix(share, layer, layers) + 0.3 * _upward(layer, layers)),
        mix_receptance=mix(lambda share, layer, layers: share ** (0.5 * (1 - layer / layers))),
        key=inward,
        value=inward,
        receptance=inward,
        decay=Param((inner,), ("inner",), by_depth(_initial_decay)),
        bonus=Param((inner,), ("inner",), _initial_bonus),
        out=Param((inner, D), ("inner", "embed"), into_stream(model, fan_in=inner)),
    )


def by_depth(start: Callable[[jax.Array, jax.Array, int], jax.Array]) -> Initializer:
    """Of a vector, or of vectors stacked over layers: `start(channel / channels, layer, layers)`, the first two
    broadcasting against each other."""

    def fill(key, shape, dtype):
        layers = shape[0] if len(shape) > 1 else 1
        share = jnp.arange(shape[-1], dtype=jnp.float32) / shape[-1]
        layer = jnp.arange(layers, dtype=jnp.float32)[:, None]
        return jnp.broadcast_to(start(share, layer, layers), (layers, shape[-1])).reshape(shape).astype(dtype)

    return fill


def initial_mix(share: jax.Array, layer: jax.Array, layers: int) -> jax.Array:
    """How much of the present token goes into each channel: all channels lean to the past in the deepest layers."""
    return share ** (1 - layer / layers)


def _upward(layer: jax.Array, layers: int) -> jax.Array:
    return layer / max(layers - 1, 1)


def _initial_decay(share, layer, layers):
    channels = share.shape[-1]
    along = share * channels / max(channels - 1, 1)
    return -5 + 8 * along ** (0.7 + 1.3 * _upward(layer, layers))


def _initial_bonus(key, shape, dtype):
    zigzag = 0.5 * ((jnp.arange(shape[-1]) + 1) % 3 - 1)
    return jnp.broadcast_to(math.log(0.3) + zigzag, shape).astype(dtype)


def rwkv_cache(model: ModelConfig, config: RWKVConfig, batch: int, length: int) -> RWKVCache:
    """The state before the first token; its size does not depend on `length`."""
    zeros_BI = jnp.zeros((batch, config.d_attention or model.d_model), jnp.float32)
    average = Average(zeros_BI, zeros_BI, jnp.full_like(zeros_BI, NOTHING))
    return RWKVCache(average, empty_history(batch, 2, (model.d_model,), model.compute_dtype))


def rwkv(
    p: RWKV, model: ModelConfig, config: RWKVConfig, x_BTD: jax.Array, context: Context, cache: RWKVCache | None
) -> tuple[jax.Array, RWKVCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache after these tokens.

    A row that begins at position 0 starts from an empty state. A state can't be taken back: positions must go on from
    where the cache stands.
    """
    empty = rwkv_cache(model, config, *x_BTD.shape[:2])
    before = empty if cache is None else resume(cache, empty, context)
    starts_BT = document_starts(context, cache)
    shifted_BTD = previous_token(x_BTD, starts_BT, before.history_B1D)

    def projected(weight, mix):
        return constrain(einsum("BTD,DI->BTI", blend(x_BTD, shifted_BTD, mix), weight), "batch", "length", "act_inner")

    key_BTI, value_BTI = projected(p.key, p.mix_key), projected(p.value, p.mix_value)
    gate_BTI = jax.nn.sigmoid(projected(p.receptance, p.mix_receptance).astype(jnp.float32))
    counts_BT = jnp.ones(x_BTD.shape[:2], bool) if cache is None or context.valid_BT is None else context.valid_BT
    tokens = Tokens(key_BTI.astype(jnp.float32), value_BTI.astype(jnp.float32), starts_BT, counts_BT)
    rate_I = jnp.exp(p.decay.astype(jnp.float32))
    average, y_BTI = forgetful_average(rate_I, p.bonus.astype(jnp.float32), before.average, tokens, config.chunk)
    y_BTI = constrain((gate_BTI * y_BTI).astype(x_BTD.dtype), "batch", "length", "act_inner")
    if cache is not None:
        cache = RWKVCache(average, new_history(x_BTD, before.history_B1D, context))
    return einsum("BTI,ID->BTD", y_BTI, p.out), cache, {}


def blend(x_BTD: jax.Array, shifted_BTD: jax.Array, mix_D: jax.Array) -> jax.Array:
    """`mix` of this token and the rest of the one before, channel by channel."""
    mix = mix_D.astype(x_BTD.dtype)
    return x_BTD * mix + shifted_BTD * (1 - mix)


def forgetful_average(
    rate_I: jax.Array, bonus_I: jax.Array, average: Average, tokens: Tokens, chunk: int
) -> tuple[Average, jax.Array]:
    """The mean of all values so far, of weights exp(key - rate * distance): the token before has distance 0, and this
    one exp(key + bonus) (equation 16). Returns the average after all tokens and the means, float32 [B, T, I].

    All exponents are kept below a running peak. The peak cancels, so no gradient runs through it.
    """

    def chunk_step(before: Average, t: Tokens):
        starts = jnp.zeros_like(t.counts_BT) if t.starts_BT is None else t.starts_BT
        starts, counts = starts[..., None], t.counts_BT[..., None]
        fading_BCI = jnp.where(starts, NOTHING, jnp.where(counts, -rate_I, 0))
        key_BCI = jnp.where(counts, t.key_BTI, NOTHING)
        peak_BCI = _running_peak(fading_BCI, key_BCI, before.peak_BI)
        peak_before = _shifted(peak_BCI, before.peak_BI)
        decay_BCI = jnp.exp(fading_BCI + peak_before - peak_BCI)
        weight_BCI = jnp.where(counts, jnp.exp(key_BCI - peak_BCI), 0)

        def summed(input_BCI, before_BI):
            first = input_BCI[:, 0] + decay_BCI[:, 0] * before_BI
            return linear_recurrence(decay_BCI, input_BCI.at[:, 0].set(first))

        numerator_BCI = summed(weight_BCI * t.value_BTI, before.numerator_BI)
        denominator_BCI = summed(weight_BCI, before.denominator_BI)
        seen = Average(
            jnp.where(starts, 0, _shifted(numerator_BCI, before.numerator_BI)),
            jnp.where(starts, 0, _shifted(denominator_BCI, before.denominator_BI)),
            jnp.where(starts, NOTHING, peak_before),
        )
        after = Average(numerator_BCI[:, -1], denominator_BCI[:, -1], peak_BCI[:, -1])
        return after, _mean(seen, t.key_BTI + bonus_I, t.value_BTI)

    step = lambda before, t: average_step(rate_I, bonus_I, before, t)  # noqa: E731
    return run_recurrence(step, chunk_step, average, tokens, chunk)


def average_step(rate_I: jax.Array, bonus_I: jax.Array, before: Average, t: Tokens) -> tuple[Average, jax.Array]:
    """One position, [B, ...]; under `reference_recurrence` the slow twin of `forgetful_average`."""
    if t.starts_BT is not None:
        empty = Average(0.0, 0.0, NOTHING)
        before = jax.tree.map(lambda none, x: jnp.where(t.starts_BT[:, None], none, x), empty, before)
    mean_BI = _mean(before, t.key_BTI + bonus_I, t.value_BTI)
    peak_BI = jax.lax.stop_gradient(jnp.maximum(before.peak_BI - rate_I, t.key_BTI))
    old, new = jnp.exp(before.peak_BI - rate_I - peak_BI), jnp.exp(t.key_BTI - peak_BI)
    numerator_BI = old * before.numerator_BI + new * t.value_BTI
    after = Average(numerator_BI, old * before.denominator_BI + new, peak_BI)
    return jax.tree.map(lambda new, old: jnp.where(t.counts_BT[:, None], new, old), after, before), mean_BI


def _mean(seen: Average, key: jax.Array, value: jax.Array) -> jax.Array:
    """The mean with one more value of weight exp(key)."""
    peak = jax.lax.stop_gradient(jnp.maximum(seen.peak_BI, key))
    old, new = jnp.exp(seen.peak_BI - peak), jnp.exp(key - peak)
    return (old * seen.numerator_BI + new * value) / (old * seen.denominator_BI + new)


def _running_peak(fading_BCI: jax.Array, key_BCI: jax.Array, before_BI: jax.Array) -> jax.Array:
    """`peak_t = max(peak_(t-1) + fading_t, key_t)`: a linear recurrence in which max stands for plus."""
    key_BCI = key_BCI.at[:, 0].max(before_BI + fading_BCI[:, 0])

    def in_sequence(left, right):
        (left_fading, left_peak), (right_fading, right_peak) = left, right
        fading = jnp.maximum(left_fading + right_fading, NOTHING)
        return fading, jnp.maximum(jnp.maximum(left_peak + right_fading, NOTHING), right_peak)

    return jax.lax.stop_gradient(jax.lax.associative_scan(in_sequence, (fading_BCI, key_BCI), axis=1)[1])


def _shifted(x_BCI: jax.Array, first_BI: jax.Array) -> jax.Array:
    return jnp.concatenate([first_BI[:, None], x_BCI[:, :-1]], axis=1)
