"""Mamba-2: a state space with one decay a head, computed as blocks of matrix products (Dao and Gu 2024).

The output of a chunk is that of attention without a softmax, its scores multiplied by decays, plus what the state from
before the chunk adds.

With a rotary state, tokens also turn it, pair of numbers by pair, as Mamba-3 does: a complex state with a decay and an
angle. Turning what is written and what is read, by the sum of the angles so far, comes to the same.

Shape letters: B batch, T time, C and S time within a chunk, D model width, H heads, G groups of heads, R heads of a
group, P head width, N state, M = N / 2 pairs of it.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.kernels.choice import choose_scan
from jaxllm.kernels.state_space_scan import state_space_scan
from jaxllm.models.config import Mamba2Config, ModelConfig, NormConfig
from jaxllm.models.declare import Param, ones, zeros
from jaxllm.models.einsum import affine, einsum, product
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
    inverse_softplus_steps,
    resume,
    run_recurrence,
)
from jaxllm.models.norm import Norm, normalize
from jaxllm.parallel.sharding import constrain


@struct.dataclass
class Mamba2:
    input: jax.Array
    gate: jax.Array
    write: jax.Array
    read: jax.Array
    step: jax.Array
    angle: jax.Array | None
    input_convolution: CausalConvolution
    write_convolution: CausalConvolution
    read_convolution: CausalConvolution
    step_bias: jax.Array
    log_decay: jax.Array
    skip: jax.Array
    norm: Norm
    out: jax.Array
    input_bias: jax.Array | None
    gate_bias: jax.Array | None
    write_bias: jax.Array | None
    read_bias: jax.Array | None
    step_in_bias: jax.Array | None
    out_bias: jax.Array | None


@struct.dataclass
class Mamba2Cache:
    """Of one layer: the state and its angle in float32, and the convolutions' last inputs (None for a width of 1)."""

    state_BHPN: jax.Array
    angle_BGM: jax.Array | None
    input_history: jax.Array | None
    write_history: jax.Array | None
    read_history: jax.Array | None


@struct.dataclass
class Tokens:
    """What the tokens of a chunk do to the state. A step of 0 leaves it as it is."""

    x_BTHP: jax.Array
    step_BTH: jax.Array
    write_BTGN: jax.Array
    read_BTGN: jax.Array
    starts_BT: jax.Array | None


def mamba2_spec(model: ModelConfig, config: Mamba2Config) -> Mamba2:
    """The declarations of one layer. Raises ValueError where the channels are not whole groups of heads."""
    D, N, P, G, H = model.d_model, config.d_state, config.head_dim, config.num_groups, config.num_heads(model.d_model)
    channels, states = ("inner", "head_dim"), ("latent", "state")
    inward = Param((D, H, P), ("embed", *channels), out_of_stream(model, fan_in=D))
    state_inward = Param((D, G, N), ("embed", *states), out_of_stream(model, fan_in=D))
    state_convolution = convolution_spec(config.d_conv, (G, N), states, bias=config.conv_bias)

    def bias(shape, axes):
        return Param(shape, axes, zeros) if config.proj_bias else None

    return Mamba2(
        input=inward,
        gate=inward,
        write=state_inward,
        read=state_inward,
        step=Param((D, H), ("embed", "inner"), out_of_stream(model, fan_in=D)),
        angle=replace(state_inward, shape=(D, G, N // 2)) if config.rotary_state else None,
        input_convolution=convolution_spec(config.d_conv, (H, P), channels, bias=config.conv_bias),
        write_convolution=state_convolution,
        read_convolution=state_convolution,
        step_bias=Param((H,), ("inner",), inverse_softplus_steps()),
        log_decay=Param((H,), ("inner",), _log_of_one_to_h),
        skip=Param((H,), ("inner",), ones),
        norm=Norm(scale=Param((H, P), channels, ones), bias=None),
        out=Param((H, P, D), (*channels, "embed"), into_stream(model, fan_in=H * P)),
        input_bias=bias((H, P), channels),
        gate_bias=bias((H, P), channels),
        write_bias=bias((G, N), states),
        read_bias=bias((G, N), states),
        step_in_bias=bias((H,), ("inner",)),
        out_bias=bias((D,), ("residual",)),
    )


def _log_of_one_to_h(key, shape, dtype):
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[-1] + 1, dtype=jnp.float32)), shape).astype(dtype)


def mamba2_cache(model: ModelConfig, config: Mamba2Config, batch: int, length: int) -> Mamba2Cache:
    """The state before the first token; its size does not depend on `length`."""
    H, P, states = config.num_heads(model.d_model), config.head_dim, (config.num_groups, config.d_state)
    return Mamba2Cache(
        state_BHPN=jnp.zeros((batch, H, P, config.d_state), jnp.float32),
        angle_BGM=jnp.zeros((batch, config.num_groups, config.d_state // 2)) if config.rotary_state else None,
        input_history=empty_history(batch, config.d_conv, (H, P), model.compute_dtype),
        write_history=empty_history(batch, config.d_conv, states, model.compute_dtype),
        read_history=empty_history(batch, config.d_conv, states, model.compute_dtype),
    )


def mamba2(
    p: Mamba2, model: ModelConfig, config: Mamba2Config, x_BTD: jax.Array, context: Context, cache: Mamba2Cache | None
) -> tuple[jax.Array, Mamba2Cache | None, Statistics]:
    """Mix along time; returns the branch [B, T, D] and the cache after these tokens.

    A row that begins at position 0 starts from an empty state. A state can't be taken back: positions must go on from
    where the cache stands.
    """
    empty = mamba2_cache(model, config, *x_BTD.shape[:2])
    before = empty if cache is None else resume(cache, empty, context)
    starts_BT = document_starts(context, cache)
    heads = ("batch", "length", "act_inner", None)
    input_BTHP = constrain(affine("BTD,DHP->BTHP", x_BTD, p.input, p.input_bias), *heads)
    gate_BTHP = constrain(affine("BTD,DHP->BTHP", x_BTD, p.gate, p.gate_bias), *heads)
    write_BTGN = affine("BTD,DGN->BTGN", x_BTD, p.write, p.write_bias)
    read_BTGN = affine("BTD,DGN->BTGN", x_BTD, p.read, p.read_bias)

    def convolved(convolution, x_BT, history):
        return jax.nn.silu(causal_convolution(convolution, x_BT, starts_BT, history))

    write = convolved(p.write_convolution, write_BTGN, before.write_history)
    read = convolved(p.read_convolution, read_BTGN, before.read_history)
    angle_BTGM = None
    if p.angle is not None:
        turned_by = blank_padding(einsum("BTD,DGM->BTGM", x_BTD, p.angle).astype(jnp.float32), context, cache)
        angle_BTGM = total_angle(turned_by.at[:, 0].add(before.angle_BGM), starts_BT)
        write, read = turn(write, angle_BTGM), turn(read, angle_BTGM)
    tokens = Tokens(
        x_BTHP=convolved(p.input_convolution, input_BTHP, before.input_history),
        step_BTH=blank_padding(step_sizes(p, config, x_BTD), context, cache),
        write_BTGN=write,
        read_BTGN=read,
        starts_BT=starts_BT,
    )
    rate_H = jnp.exp(p.log_decay.astype(jnp.float32))
    state_BHPN, y_BTHP = state_space_dual(rate_H, before.state_BHPN, tokens, config.chunk, model.kernels.scan)
    y_BTHP = y_BTHP + p.skip.astype(jnp.float32)[:, None] * tokens.x_BTHP.astype(jnp.float32)
    y_BTHP = gated_norm(p.norm, model, config, y_BTHP, gate_BTHP).astype(x_BTD.dtype)
    out_BTD = affine("BTHP,HPD->BTD", constrain(y_BTHP, *heads), p.out, p.out_bias)
    if cache is not None:
        cache = Mamba2Cache(
            state_BHPN=state_BHPN,
            angle_BGM=None if angle_BTGM is None else angle_BTGM[:, -1],
            input_history=new_history(input_BTHP, before.input_history, context),
            write_history=new_history(write_BTGN, before.write_history, context),
            read_history=new_history(read_BTGN, before.read_history, context),
        )
    return out_BTD, cache, {}


def step_sizes(p: Mamba2, config: Mamba2Config, x_BTD: jax.Array) -> jax.Array:
    """How far each head moves at each token, float32 [B, T, H], within the config's limits."""
    step_BTH = affine("BTD,DH->BTH", x_BTD, p.step, p.step_in_bias).astype(jnp.float32)
    step_BTH = jax.nn.softplus(step_BTH + p.step_bias.astype(jnp.float32))
    return jnp.clip(step_BTH, config.dt_min, config.dt_max or jnp.inf)


def total_angle(angle_BT: jax.Array, starts_BT: jax.Array | None = None) -> jax.Array:
    """The sum of all angles so far of the document, along axis 1, within half a turn of 0.

    Whole turns are taken out at every addition, so that a long text costs no digits; they have no gradient.
    """
    going_on_BT = jnp.ones(angle_BT.shape[:2]) if starts_BT is None else jnp.where(starts_BT, 0.0, 1.0)

    def in_sequence(left, right):
        (left_on, left_angle), (right_on, right_angle) = left, right
        angle = right_on * left_angle + right_angle
        return left_on * right_on, angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))

    going_on_BT = going_on_BT.reshape(*going_on_BT.shape, *[1] * (angle_BT.ndim - 2))
    return jax.lax.associative_scan(in_sequence, (going_on_BT, angle_BT), axis=1)[1]


def turn(x_BTGN: jax.Array, angle_BTGM: jax.Array) -> jax.Array:
    """Pairs (i, i + M) turned by their angles, in float32; same type out."""
    first, second = jnp.split(x_BTGN.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angle_BTGM), jnp.sin(angle_BTGM)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTGN.dtype)


def gated_norm(p: Norm, model: ModelConfig, config: Mamba2Config, y_BTHP: jax.Array, gate_BTHP: jax.Array) -> jax.Array:
    """RMSNorm of y * silu(gate) over the channels of each group, float32."""
    y_BTHP = y_BTHP * jax.nn.silu(gate_BTHP.astype(jnp.float32))
    grouped = (*y_BTHP.shape[:2], config.num_groups, -1)
    whole = Norm(scale=p.scale.reshape(config.num_groups, -1), bias=None)
    return normalize(whole, NormConfig(epsilon=model.norm.epsilon), y_BTHP.reshape(grouped)).reshape(y_BTHP.shape)


def state_space_dual(
    rate_H: jax.Array, state_BHPN: jax.Array, tokens: Tokens, chunk: int, kernel: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """`state_t = exp(-step_t rate) state_(t-1) + step_t x_t write_t^T`, read out by `read_t` (SSD, section 6).

    Returns the last state and y [B, T, H, P], both float32. Products are in the type of the activations. `kernel` is
    that of `KernelConfig.scan`; raises ValueError for one that is not for this platform.
    """
    if choose_scan(kernel).kernel == "pallas" and tokens.x_BTHP.shape[1] > 1:
        x_BTHP = (tokens.x_BTHP * tokens.step_BTH[..., None]).astype(tokens.x_BTHP.dtype)
        log_decay_BTH = -tokens.step_BTH * rate_H
        return state_space_scan(
            state_BHPN, x_BTHP, log_decay_BTH, tokens.write_BTGN, tokens.read_BTGN, tokens.starts_BT, chunk
        )

    def chunk_step(state_BHPN, t: Tokens):
        B, C, H, P = t.x_BTHP.shape
        G, dtype = t.write_BTGN.shape[2], t.x_BTHP.dtype
        grouped = (B, G, H // G)
        pair_BHCS, carry_BHC = decays(-t.step_BTH * rate_H, t.starts_BT)
        scores_BGCS = product("BCGN,BSGN->BGCS", t.read_BTGN, t.write_BTGN)
        weights_BGRCS = scores_BGCS[:, :, None] * pair_BHCS.reshape(*grouped, C, C)
        x_BCGRP = (t.x_BTHP * t.step_BTH[..., None]).reshape(B, C, G, H // G, P)
        state_BGRPN = state_BHPN.reshape(*grouped, P, -1)

        within = product("BGRCS,BSGRP->BGRCP", weights_BGRCS.astype(dtype), x_BCGRP)
        from_before = product("BCGN,BGRPN->BGRCP", t.read_BTGN, state_BGRPN)
        y_BGRCP = within + carry_BHC.reshape(*grouped, C, 1) * from_before
        remaining_BCGRP = x_BCGRP * jnp.moveaxis(pair_BHCS[:, :, -1], 1, 2).reshape(B, C, G, H // G, 1)
        written = product("BCGRP,BCGN->BGRPN", remaining_BCGRP.astype(dtype), t.write_BTGN)
        state_BHPN = carry_BHC[..., -1, None, None] * state_BHPN + written.reshape(state_BHPN.shape)
        return state_BHPN, jnp.moveaxis(y_BGRCP, 3, 1).reshape(B, C, H, P)

    return run_recurrence(lambda state, t: mamba2_step(rate_H, state, t), chunk_step, state_BHPN, tokens, chunk)


def mamba2_step(rate_H: jax.Array, state_BHPN: jax.Array, t: Tokens) -> tuple[jax.Array, jax.Array]:
    """One position, [B, ...]; under `reference_recurrence` the slow twin of `state_space_dual`."""
    repeats = t.x_BTHP.shape[1] // t.write_BTGN.shape[1]
    write_BHN = jnp.repeat(t.write_BTGN, repeats, axis=1).astype(jnp.float32)
    read_BHN = jnp.repeat(t.read_BTGN, repeats, axis=1).astype(jnp.float32)
    state_BHPN = after_reset(state_BHPN, t.starts_BT) * jnp.exp(-t.step_BTH * rate_H)[..., None, None]
    state_BHPN = state_BHPN + (t.step_BTH[..., None] * t.x_BTHP)[..., None] * write_BHN[:, :, None]
    return state_BHPN, jnp.einsum("BHPN,BHN->BHP", state_BHPN, read_BHN)


def reference_quadratic(rate_H: jax.Array, tokens: Tokens) -> jax.Array:
    """The other slow twin, the dual form of one document without a state before it: attention whose scores are read^T
    write times the decay in between, with no softmax (equation 16 of the paper); y [B, T, H, P]."""
    T, H, G = tokens.x_BTHP.shape[1], tokens.x_BTHP.shape[2], tokens.write_BTGN.shape[2]
    total_BTH = jnp.cumsum(-tokens.step_BTH * rate_H, axis=1)
    decay_BTSH = jnp.exp(jnp.minimum(total_BTH[:, :, None] - total_BTH[:, None], 0))
    scores_BTSG = jnp.einsum("BTGN,BSGN->BTSG", tokens.read_BTGN, tokens.write_BTGN)
    scores_BTSH = jnp.repeat(scores_BTSG, H // G, axis=-1) * decay_BTSH * jnp.tri(T)[:, :, None]
    return jnp.einsum("BTSH,BSH,BSHP->BTHP", scores_BTSH, tokens.step_BTH, tokens.x_BTHP)
