"""Mamba: a state space whose step size, input and output depend on the token (Gu and Dao 2023).

Each of the I channels has a state of N numbers that decays at rates of its own; a token says how long its step is, what
it writes (the paper's B) and what is read (C).

Shape letters: B batch, T time, C time within a chunk, D model width, I inner channels, N state, R rank of the step, W
width of the convolution.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.config import MambaConfig, ModelConfig, NormConfig
from jaxllm.models.declare import Initializer, Param, ones, zeros
from jaxllm.models.einsum import affine, einsum
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
    document_starts,
    inverse_softplus_steps,
    linear_recurrence,
    resume,
    run_recurrence,
)
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class Mamba:
    input: jax.Array
    gate: jax.Array
    convolution: CausalConvolution
    select: jax.Array  # step (R), write (N) and read (N) of a token, side by side
    step: jax.Array
    step_bias: jax.Array
    log_decay: jax.Array
    skip: jax.Array
    out: jax.Array
    input_bias: jax.Array | None
    gate_bias: jax.Array | None
    out_bias: jax.Array | None
    step_norm: Norm | None
    write_norm: Norm | None
    read_norm: Norm | None


@struct.dataclass
class MambaCache:
    """Of one layer: the state in float32, and the convolution's last W - 1 inputs (None for a width of 1)."""

    state_BIN: jax.Array
    history_BWI: jax.Array | None


@struct.dataclass
class Selection:
    """What the tokens of a chunk do to the state. A step of 0 leaves it as it is."""

    x_BTI: jax.Array
    step_BTI: jax.Array
    write_BTN: jax.Array
    read_BTN: jax.Array
    starts_BT: jax.Array | None


def mamba_spec(model: ModelConfig, config: MambaConfig) -> Mamba:
    """The declarations of one layer."""
    D, N, R, inner = model.d_model, config.d_state, config.step_rank(model.d_model), config.expand * model.d_model
    inward = Param((D, inner), ("embed", "inner"), out_of_stream(model, fan_in=D))
    inner_bias = Param((inner,), ("inner",), zeros) if config.proj_bias else None
    norm = lambda width: norm_spec(_inner_norm(model), width, "latent") if config.inner_norm else None  # noqa: E731
    return Mamba(
        input=inward,
        gate=inward,
        convolution=convolution_spec(config.d_conv, (inner,), ("inner",), bias=config.conv_bias),
        select=Param((inner, R + 2 * N), ("inner", "latent"), out_of_stream(model, fan_in=inner), matrix=True),
        step=Param((R, inner), ("latent", "inner"), _uniform(R**-0.5), matrix=True),
        step_bias=Param((inner,), ("inner",), inverse_softplus_steps()),
        log_decay=Param((inner, N), ("inner", "state"), _log_of_one_to_n),
        skip=Param((inner,), ("inner",), ones),
        out=Param((inner, D), ("inner", "embed"), into_stream(model, fan_in=inner)),
        input_bias=inner_bias,
        gate_bias=inner_bias,
        out_bias=Param((D,), ("residual",), zeros) if config.proj_bias else None,
        step_norm=norm(R),
        write_norm=norm(N),
        read_norm=norm(N),
    )


def _uniform(bound: float) -> Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _log_of_one_to_n(key, shape, dtype):
    # S4D-Real (Gu et al. 2022): decay rates 1, 2, ..., N in every channel.
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=jnp.float32)), shape).astype(dtype)


def _inner_norm(model: ModelConfig) -> NormConfig:
    return NormConfig(epsilon=model.norm.epsilon)


def mamba_cache(model: ModelConfig, config: MambaConfig, batch: int, length: int) -> MambaCache:
    """The state before the first token; its size does not depend on `length`."""
    inner = config.expand * model.d_model
    return MambaCache(
        state_BIN=jnp.zeros((batch, inner, config.d_state), jnp.float32),
        history_BWI=empty_history(batch, config.d_conv, (inner,), model.compute_dtype),
    )


def mamba(
    p: Mamba, model: ModelConfig, config: MambaConfig, x_BTD: jax.Array, context: Context, cache: MambaCache | None
) -> tuple[jax.Array, MambaCache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache after these tokens.

    A row that begins at position 0 starts from an empty state. A state can't be taken back: positions must go on from
    where the cache stands.
    """
    B, T, _ = x_BTD.shape
    empty = mamba_cache(model, config, B, T)
    before = empty if cache is None else resume(cache, empty, context)
    starts_BT = document_starts(context, cache)
    input_BTI = constrain(affine("BTD,DI->BTI", x_BTD, p.input, p.input_bias), "batch", "length", "act_inner")
    gate_BTI = constrain(affine("BTD,DI->BTI", x_BTD, p.gate, p.gate_bias), "batch", "length", "act_inner")
    x_BTI = jax.nn.silu(causal_convolution(p.convolution, input_BTI, starts_BT, before.history_BWI))
    selection = select(p, model, config, x_BTI, starts_BT)
    selection = selection.replace(step_BTI=blank_padding(selection.step_BTI, context, cache))

    chunk = T if config.scan == "associative" else config.chunk
    state_BIN, y_BTI = selective_scan(jnp.exp(p.log_decay.astype(jnp.float32)), before.state_BIN, selection, chunk)
    y_BTI = y_BTI + p.skip.astype(jnp.float32) * x_BTI.astype(jnp.float32)
    y_BTI = (y_BTI * jax.nn.silu(gate_BTI.astype(jnp.float32))).astype(x_BTD.dtype)
    out_BTD = affine("BTI,ID->BTD", constrain(y_BTI, "batch", "length", "act_inner"), p.out, p.out_bias)
    if cache is not None:
        cache = MambaCache(state_BIN, new_history(input_BTI, before.history_BWI, context))
    return out_BTD, cache, {}


def select(
    p: Mamba, model: ModelConfig, config: MambaConfig, x_BTI: jax.Array, starts_BT: jax.Array | None
) -> Selection:
    """Step sizes, writes and reads of the tokens (equations of section 3.2; the inner norms are Jamba's)."""
    N, R = config.d_state, config.step_rank(model.d_model)
    selected = einsum("BTI,IR->BTR", x_BTI, p.select)
    low_BTR, write_BTN, read_BTN = jnp.split(selected, [R, R + N], axis=-1)
    if p.step_norm is not None:
        low_BTR = normalize(p.step_norm, _inner_norm(model), low_BTR)
        write_BTN = normalize(p.write_norm, _inner_norm(model), write_BTN)
        read_BTN = normalize(p.read_norm, _inner_norm(model), read_BTN)
    step_BTI = einsum("BTR,RI->BTI", low_BTR, p.step).astype(jnp.float32) + p.step_bias.astype(jnp.float32)
    step_BTI = constrain(jax.nn.softplus(step_BTI), "batch", "length", "act_inner")
    return Selection(x_BTI, step_BTI, write_BTN.astype(jnp.float32), read_BTN.astype(jnp.float32), starts_BT)


def selective_scan(
    rate_IN: jax.Array, state_BIN: jax.Array, selection: Selection, chunk: int
) -> tuple[jax.Array, jax.Array]:
    """`state_t = exp(-step_t rate) state_(t-1) + step_t write_t x_t`, read out by `read_t` (equations 2 and 4).

    Returns the last state and y [B, T, I], both float32. States exist for `chunk` positions at a time.
    """

    def chunk_step(state_BIN, s: Selection):
        decay_BCIN = jnp.exp(-s.step_BTI[..., None] * rate_IN)
        if s.starts_BT is not None:
            decay_BCIN = jnp.where(s.starts_BT[..., None, None], 0, decay_BCIN)
        input_BCIN = (s.step_BTI * s.x_BTI)[..., None] * s.write_BTN[:, :, None]
        input_BCIN = input_BCIN.at[:, 0].add(decay_BCIN[:, 0] * state_BIN)
        states_BCIN = linear_recurrence(decay_BCIN, input_BCIN)
        return states_BCIN[:, -1], jnp.einsum("BCIN,BCN->BCI", states_BCIN, s.read_BTN)

    return run_recurrence(lambda state, s: mamba_step(rate_IN, state, s), chunk_step, state_BIN, selection, chunk)


def mamba_step(rate_IN: jax.Array, state_BIN: jax.Array, s: Selection) -> tuple[jax.Array, jax.Array]:
    """One position, [B, ...]; under `reference_recurrence` the slow twin of `selective_scan`."""
    state_BIN = after_reset(state_BIN, s.starts_BT)
    state_BIN = jnp.exp(-s.step_BTI[..., None] * rate_IN) * state_BIN
    state_BIN = state_BIN + (s.step_BTI * s.x_BTI)[..., None] * s.write_BTN[:, None]
    return state_BIN, jnp.einsum("BIN,BN->BI", state_BIN, s.read_BTN)
