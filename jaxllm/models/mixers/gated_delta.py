"""The gated delta rule: linear attention that decays and corrects what it remembers (Yang et al. 2024).

The state of a head is a map from keys to values. A token makes it decay, asks it for the value at the token's key, and
writes a part of the error (the delta rule). With neither, it is plain linear attention: the sum of key value^T.

Shape letters: B batch, T time, C and S time within a chunk, D model width, H value heads, G key heads, R value heads of
a key head, K key width, V value width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import GatedDeltaConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Param, ones
from jaxllm.models.einsum import einsum, product
from jaxllm.models.initializers import into_stream, out_of_stream
from jaxllm.models.layer import Context, Statistics
from jaxllm.models.mixers.causal_convolution import (
    CausalConvolution,
    causal_convolution,
    convolution_spec,
    empty_history,
    new_history,
)
from jaxllm.models.mixers.recurrence import (
    after_reset,
    blank_padding,
    decays,
    document_starts,
    resume,
    run_recurrence,
)
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class GatedDelta:
    query: jax.Array
    key: jax.Array
    value: jax.Array
    gate: jax.Array
    beta: jax.Array | None
    decay: jax.Array | None
    decay_bias: jax.Array | None
    log_decay: jax.Array | None
    query_convolution: CausalConvolution | None
    key_convolution: CausalConvolution | None
    value_convolution: CausalConvolution | None
    norm: Norm
    out: jax.Array


@struct.dataclass
class GatedDeltaCache:
    """Of one layer: the state in float32, and the convolutions' last inputs (None for a width of 0 or 1)."""

    state_BHKV: jax.Array
    query_history: jax.Array | None
    key_history: jax.Array | None
    value_history: jax.Array | None


@struct.dataclass
class Tokens:
    """What the tokens of a chunk ask of the state and do to it. A key of 0 that decays by 0 leaves it as it is."""

    query_BTGK: jax.Array
    key_BTGK: jax.Array
    value_BTHV: jax.Array
    log_decay_BTH: jax.Array
    beta_BTH: jax.Array | None
    starts_BT: jax.Array | None


def gated_delta_spec(model: ModelConfig, config: GatedDeltaConfig) -> GatedDelta:
    """The declarations of one layer."""
    D, H, G, K, V = model.d_model, config.num_heads, config.num_key_heads, config.key_dim, config.value_dim
    axes = ("inner", "head_dim")
    keys = Param((D, G, K), ("embed", *axes), out_of_stream(model, fan_in=D))
    values = Param((D, H, V), ("embed", *axes), out_of_stream(model, fan_in=D))
    scalar = Param((D, H), ("embed", "inner"), out_of_stream(model, fan_in=D))
    key_convolution = convolution_spec(config.d_conv, (G, K), axes, bias=False)
    return GatedDelta(
        query=keys,
        key=keys,
        value=values,
        gate=values,
        beta=scalar if config.delta else None,
        decay=scalar if config.decay else None,
        decay_bias=Param((H,), ("inner",), ones) if config.decay else None,
        log_decay=Param((H,), ("inner",), _log_of_uniform) if config.decay else None,
        query_convolution=key_convolution,
        key_convolution=key_convolution,
        value_convolution=convolution_spec(config.d_conv, (H, V), axes, bias=False),
        norm=norm_spec(_norm(model), V, "head_dim"),
        out=Param((H, V, D), (*axes, "embed"), into_stream(model, fan_in=H * V)),
    )


def _log_of_uniform(key, shape, dtype):
    # Decay rates between 0 and 16, as Mamba-2's; kept away from 0, whose logarithm there is none of.
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 0.01, 16)).astype(dtype)


def _norm(model: ModelConfig) -> NormConfig:
    return NormConfig(epsilon=model.norm.epsilon)


def gated_delta_cache(model: ModelConfig, config: GatedDeltaConfig, batch: int, length: int) -> GatedDeltaCache:
    """The state before the first token; its size does not depend on `length`."""
    keys, values = (config.num_key_heads, config.key_dim), (config.num_heads, config.value_dim)
    state = (batch, config.num_heads, config.key_dim, config.value_dim)
    history = lambda channels: empty_history(batch, config.d_conv, channels, model.compute_dtype)  # noqa: E731
    return GatedDeltaCache(jnp.zeros(state, jnp.float32), history(keys), history(keys), history(values))


def gated_delta(
    p: GatedDelta,
    model: ModelConfig,
    config: GatedDeltaConfig,
    x_BTD: jax.Array,
    context: Context,
    cache: GatedDeltaCache | None,
) -> tuple[jax.Array, GatedDeltaCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache after these tokens.

    A row that begins at position 0 starts from an empty state. A state can't be taken back: positions must go on from
    where the cache stands.
    """
    empty = gated_delta_cache(model, config, *x_BTD.shape[:2])
    before = empty if cache is None else resume(cache, empty, context)
    starts_BT = document_starts(context, cache)
    heads = ("batch", "length", "act_inner", None)
    query_BTGK = constrain(einsum("BTD,DGK->BTGK", x_BTD, p.query), *heads)
    key_BTGK = constrain(einsum("BTD,DGK->BTGK", x_BTD, p.key), *heads)
    value_BTHV = constrain(einsum("BTD,DHV->BTHV", x_BTD, p.value), *heads)
    gate_BTHV = constrain(einsum("BTD,DHV->BTHV", x_BTD, p.gate), *heads)

    def convolved(convolution, x_BT, history):
        return jax.nn.silu(x_BT if convolution is None else causal_convolution(convolution, x_BT, starts_BT, history))

    log_decay_BTH, beta_BTH = gates(p, x_BTD)
    asked_BTGK = unit_length(convolved(p.query_convolution, query_BTGK, before.query_history))
    written_BTGK = unit_length(convolved(p.key_convolution, key_BTGK, before.key_history))
    tokens = Tokens(
        query_BTGK=asked_BTGK * config.key_dim**-0.5,
        key_BTGK=blank_padding(written_BTGK, context, cache),
        value_BTHV=convolved(p.value_convolution, value_BTHV, before.value_history),
        log_decay_BTH=blank_padding(log_decay_BTH, context, cache),
        beta_BTH=beta_BTH,
        starts_BT=starts_BT,
    )
    state_BHKV, y_BTHV = delta_rule(before.state_BHKV, tokens, config.chunk)
    y_BTHV = normalize(p.norm, _norm(model), y_BTHV) * jax.nn.silu(gate_BTHV.astype(jnp.float32))
    out_BTD = einsum("BTHV,HVD->BTD", constrain(y_BTHV.astype(x_BTD.dtype), *heads), p.out)
    if cache is not None:
        cache = GatedDeltaCache(
            state_BHKV=state_BHKV,
            query_history=new_history(query_BTGK, before.query_history, context),
            key_history=new_history(key_BTGK, before.key_history, context),
            value_history=new_history(value_BTHV, before.value_history, context),
        )
    return out_BTD, cache, {}


def gates(p: GatedDelta, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """The log of the decay, at most 0, and the part of the error that is written (None without the delta rule); both
    float32 [B, T, H]."""
    beta_BTH = None
    if p.beta is not None:
        beta_BTH = jax.nn.sigmoid(einsum("BTD,DH->BTH", x_BTD, p.beta).astype(jnp.float32))
    if p.decay is None:
        return jnp.zeros((*x_BTD.shape[:2], p.value.shape[1]), jnp.float32), beta_BTH
    step_BTH = einsum("BTD,DH->BTH", x_BTD, p.decay).astype(jnp.float32) + p.decay_bias.astype(jnp.float32)
    return -jnp.exp(p.log_decay.astype(jnp.float32)) * jax.nn.softplus(step_BTH), beta_BTH


def unit_length(x: jax.Array) -> jax.Array:
    """`x / |x|` along the last axis, computed in float32; same type out."""
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.square(y).sum(-1, keepdims=True) + 1e-6)).astype(x.dtype)


def delta_rule(state_BHKV: jax.Array, tokens: Tokens, chunk: int) -> tuple[jax.Array, jax.Array]:
    """`S_t = decay_t S_(t-1) + beta_t key_t (value_t - decay_t S_(t-1)^T key_t)^T`, y_t = S_t^T query_t (equation 10).

    Without beta the value itself is written. Returns the last state and y [B, T, H, V], both float32. What the tokens
    of a chunk write depends on each other through a triangular system (the UT transform, Yang et al. 2024b, section 3),
    which is solved in float32; products are in the type of the activations.
    """

    def chunk_step(state_BHKV, t: Tokens):
        B, C, G, _ = t.key_BTGK.shape
        H, V = t.value_BTHV.shape[2:]
        grouped, dtype = (B, G, H // G), t.value_BTHV.dtype
        pair_BHCS, carry_BHC = decays(t.log_decay_BTH, t.starts_BT)
        pair_BGRCS, carry_BGRC = pair_BHCS.reshape(*grouped, C, C), carry_BHC.reshape(*grouped, C, 1)
        state_BGRKV = state_BHKV.reshape(*grouped, -1, V)
        written_BGRCV = jnp.moveaxis(t.value_BTHV.reshape(B, C, G, H // G, V), 1, 3)

        if t.beta_BTH is not None:
            beta_BGRC = jnp.moveaxis(t.beta_BTH, 1, 2).reshape(*grouped, C, 1)
            alike_BGCS = product("BCGK,BSGK->BGCS", t.key_BTGK, t.key_BTGK)
            answer_BGRCV = carry_BGRC * product("BCGK,BGRKV->BGRCV", t.key_BTGK, state_BGRKV)
            inverse_BGRCS = inverse_of_unit_lower(beta_BGRC * alike_BGCS[:, :, None] * pair_BGRCS)
            error_BGRCV = beta_BGRC * (written_BGRCV - answer_BGRCV)
            written_BGRCV = jnp.einsum("BGRCS,BGRSV->BGRCV", inverse_BGRCS, error_BGRCV, precision="highest")

        scores_BGCS = product("BCGK,BSGK->BGCS", t.query_BTGK, t.key_BTGK)
        weights_BGRCS = (scores_BGCS[:, :, None] * pair_BGRCS).astype(dtype)
        y_BGRCV = product("BGRCS,BGRSV->BGRCV", weights_BGRCS, written_BGRCV)
        y_BGRCV = y_BGRCV + carry_BGRC * product("BCGK,BGRKV->BGRCV", t.query_BTGK, state_BGRKV)
        remaining_BGRCV = pair_BGRCS[..., -1, :, None] * written_BGRCV
        state_BGRKV = carry_BGRC[..., -1:, :] * state_BGRKV
        state_BGRKV = state_BGRKV + product("BCGK,BGRCV->BGRKV", t.key_BTGK, remaining_BGRCV)
        return state_BGRKV.reshape(state_BHKV.shape), jnp.moveaxis(y_BGRCV, 3, 1).reshape(B, C, H, V)

    return run_recurrence(delta_step, chunk_step, state_BHKV, tokens, chunk)


@jax.custom_vjp
def inverse_of_unit_lower(below: jax.Array) -> jax.Array:
    """The inverse of a matrix [..., C, C] with ones on its diagonal and, below it, what `below` has there; float32.

    Inverts blocks on the diagonal, twice as wide each time: log2(C) rounds of products. They are as stable as solving
    row by row, and there is none of the powers of the matrix that a series would need. There is no forward-mode
    derivative.
    """
    C, batch = below.shape[-1], below.shape[:-2]
    size = 1 << (C - 1).bit_length()
    padded = jnp.pad(below, [(0, 0)] * len(batch) + [(0, size - C)] * 2)
    inverse, width = jnp.ones((*batch, size, 1, 1), below.dtype), 1
    while width < size:
        blocks = padded.reshape(*batch, size // (2 * width), 2 * width, size // (2 * width), 2 * width)
        corner = jnp.moveaxis(jnp.diagonal(blocks, axis1=-4, axis2=-2)[..., width:, :width, :], -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -jnp.matmul(jnp.matmul(second, corner, precision="highest"), first, precision="highest")
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        width *= 2
    return inverse[..., 0, :C, :C]


def _inverse_forward(below):
    inverse = inverse_of_unit_lower(below)
    return inverse, inverse


def _inverse_backward(inverse, grad):
    grad = jnp.einsum("...SC,...SU,...VU->...CV", inverse, grad, inverse, precision="highest")
    return (-jnp.tril(grad, -1),)


inverse_of_unit_lower.defvjp(_inverse_forward, _inverse_backward)


def delta_step(state_BHKV: jax.Array, t: Tokens) -> tuple[jax.Array, jax.Array]:
    """One position, [B, ...]; under `reference_recurrence` the slow twin of `delta_rule`."""
    repeats = t.value_BTHV.shape[1] // t.key_BTGK.shape[1]
    query_BHK = jnp.repeat(t.query_BTGK, repeats, axis=1).astype(jnp.float32)
    key_BHK = jnp.repeat(t.key_BTGK, repeats, axis=1).astype(jnp.float32)
    state_BHKV = after_reset(state_BHKV, t.starts_BT) * jnp.exp(t.log_decay_BTH)[..., None, None]
    written_BHV = t.value_BTHV.astype(jnp.float32)
    if t.beta_BTH is not None:
        answer_BHV = jnp.einsum("BHKV,BHK->BHV", state_BHKV, key_BHK)
        written_BHV = t.beta_BTH[..., None] * (written_BHV - answer_BHV)
    state_BHKV = state_BHKV + key_BHK[..., None] * written_BHV[:, :, None]
    return state_BHKV, jnp.einsum("BHKV,BHK->BHV", state_BHKV, query_BHK)
