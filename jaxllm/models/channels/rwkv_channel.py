"""RWKV-4's channel mixing: a squared-ReLU layer over this token and the one before, behind a gate.

Shape letters: B batch, T time, D model width, F hidden width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import ModelConfig, RWKVChannelConfig
from jaxllm.models.declare import Param
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.causal_convolution import empty_history, new_history, previous_token
from jaxllm.models.mixers.recurrence import document_starts, resume
from jaxllm.models.mixers.rwkv import blend, by_depth, initial_mix
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class RWKVChannel:
    mix_key: jax.Array
    mix_receptance: jax.Array
    key: jax.Array
    receptance: jax.Array
    value: jax.Array


@struct.dataclass
class RWKVChannelCache:
    """Of one layer: the vector of the token before."""

    history_B1D: jax.Array


def rwkv_channel_spec(model: ModelConfig, config: RWKVChannelConfig) -> RWKVChannel:
    """The declarations of one layer. Initial mixes depend on its place among the layers that it is stacked with."""
    D, F = model.d_model, config.d_ff or 4 * model.d_model
    mix = Param((D,), ("residual",), by_depth(initial_mix))
    return RWKVChannel(
        mix_key=mix,
        mix_receptance=mix,
        key=Param((D, F), ("embed", "mlp"), out_of_stream(model, fan_in=D)),
        receptance=Param((D, D), ("embed", "residual"), out_of_stream(model, fan_in=D)),
        value=Param((F, D), ("mlp", "embed"), into_stream(model, fan_in=F)),
    )


def rwkv_channel_cache(model: ModelConfig, config: RWKVChannelConfig, batch: int, length: int) -> RWKVChannelCache:
    return RWKVChannelCache(empty_history(batch, 2, (model.d_model,), model.compute_dtype))


def rwkv_channel(
    p: RWKVChannel,
    model: ModelConfig,
    config: RWKVChannelConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: RWKVChannelCache | None,
) -> tuple[jax.Array, RWKVChannelCache | None, Statistics]:
    """`sigmoid(r receptance) * (relu(k key)^2 value)`, r and k being mixed with the token before (Peng et al. 2023,
    equations 14, 15 and 18)."""
    empty = rwkv_channel_cache(model, config, *x_BTD.shape[:2])
    before = empty if cache is None else resume(cache, empty, context)
    shifted_BTD = previous_token(x_BTD, document_starts(context, cache), before.history_B1D)
    hidden_BTF = einsum("BTD,DF->BTF", blend(x_BTD, shifted_BTD, p.mix_key), p.key)
    hidden_BTF = constrain(jnp.square(jax.nn.relu(hidden_BTF)), "batch", "length", "act_mlp")
    gate_BTD = einsum("BTD,DE->BTE", blend(x_BTD, shifted_BTD, p.mix_receptance), p.receptance)
    out_BTD = jax.nn.sigmoid(gate_BTD) * einsum("BTF,FD->BTD", hidden_BTF, p.value)
    if cache is not None:
        cache = RWKVChannelCache(new_history(x_BTD, before.history_B1D, context))
    return out_BTD, cache, {}
