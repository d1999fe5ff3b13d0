"""Mamba-2's state space in chunks on TPUs, as a Pallas kernel (Dao and Gu 2024, section 6).

Plain JAX writes the decays and scores of a chunk, [C, C] for every head, to the device's memory and reads them back.
Here they stay on the chip: a program of the grid is one chunk of one head, the states go from one chunk to the next in
scratch memory, and the states at the beginnings of chunks are all that is kept for the backward pass, which computes
each chunk again and pulls the cotangents back through it. The heads of a group take turns at a chunk, so what they
share is fetched once, and its gradient is summed on the chip.

Shape letters: B batch, T time, C and S time within a chunk, Q chunks, H heads, G groups of heads, R heads of a
group, P head width, N state. A letter 1 is an axis of size 1, which keeps arrays two-dimensional, as the chip has them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxllm.kernels.on_mesh import run_on_mesh
from jaxllm.kernels.platform import is_interpreting


def state_space_scan(
    state_BHPN: jax.Array,
    x_BTHP: jax.Array,
    log_decay_BTH: jax.Array,
    write_BTGN: jax.Array,
    read_BTGN: jax.Array,
    starts_BT: jax.Array | None,
    chunk: int,
) -> tuple[jax.Array, jax.Array]:
    """`state_t = exp(log_decay_t) state_(t-1) + x_t write_t^T`, y_t = state_t read_t; from zeros where `starts_BT`.

    Returns the last state and y [B, T, H, P], both float32. `log_decay_BTH` is at most 0, float32; products are in the
    type of `x`. On a mesh each device takes its rows and heads. Compiles for TPUs only; under `interpreting()` it runs
    anywhere. Raises ValueError where the mesh does not divide heads and groups.
    """
    starts_BT = jnp.zeros(x_BTHP.shape[:2], bool) if starts_BT is None else starts_BT
    heads, states = ("batch", None, "act_inner", None), ("batch", "act_inner", None, None)
    axes = (states, heads, ("batch", None, "act_inner"), heads, heads, ("batch", None))
    arrays = (state_BHPN, x_BTHP, log_decay_BTH, write_BTGN, read_BTGN, starts_BT)
    return run_on_mesh(partial(_scan_chunks, min(chunk, x_BTHP.shape[1])), arrays, axes, [states, heads])


def reference_state_space_scan(state_BHPN, x_BTHP, log_decay_BTH, write_BTGN, read_BTGN, starts_BT):
    """The slow twin: one position after another, in float32."""
    repeats = x_BTHP.shape[2] // write_BTGN.shape[2]
    write_BTHN, read_BTHN = (jnp.repeat(a, repeats, axis=2) for a in (write_BTGN, read_BTGN))
    decay_BTH = jnp.where(starts_BT[..., None], 0, jnp.exp(log_decay_BTH))

    def step(state, t):
        x_BHP, decay_BH, write_BHN, read_BHN = t
        state = decay_BH[..., None, None] * state + x_BHP[..., None] * write_BHN[:, :, None]
        return state, jnp.einsum("BHPN,BHN->BHP", state, read_BHN, precision="highest")

    in_time = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (x_BTHP, decay_BTH, write_BTHN, read_BTHN))
    state, y_TBHP = jax.lax.scan(step, state_BHPN, in_time)
    return state, jnp.moveaxis(y_TBHP, 0, 1)


def _scan_chunks(C, state_BHPN, x_BTHP, log_decay_BTH, write_BTGN, read_BTGN, starts_BT):
    """Pads to whole chunks and brings time to the last axis but one. A padded position changes nothing."""
    B, T, H, _ = x_BTHP.shape
    Q = -(-T // C)
    pad = lambda a: jnp.pad(a, ((0, 0), (0, Q * C - T), *[(0, 0)] * (a.ndim - 2)))  # noqa: E731
    # Below exp(-30) there is nothing next to float32's rounding, and small sums keep their digits.
    decay_BHQ1C = jnp.moveaxis(pad(jnp.maximum(log_decay_BTH, -30)), 1, 2).reshape(B, H, Q, 1, C)
    document_BQ1C = jnp.cumsum(pad(starts_BT).reshape(B, Q, 1, C), axis=-1).astype(jnp.float32)
    by_head = lambda a: jnp.swapaxes(pad(a), 1, 2)  # noqa: E731
    state, y_BHTP = _scan(
        C, state_BHPN, by_head(x_BTHP), decay_BHQ1C, by_head(write_BTGN), by_head(read_BTGN), document_BQ1C
    )
    return state, jnp.swapaxes(y_BHTP, 1, 2)[:, :T]


def _chunk(state_PN, x_CP, decay_1C, write_CN, read_CN, document_1C):
    """One chunk of one head: the state after it, and y [C, P]. `document_1C` counts the documents that began in it."""
    C = x_CP.shape[0]
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (C, C), axis) for axis in (0, 1))
    as_column = lambda a_1C: jnp.where(row == column, a_1C, 0).sum(1, keepdims=True)  # noqa: E731
    document_C1 = as_column(document_1C)
    alike = document_C1 == document_1C
    # Sums of log decays within each document, once down and once across.
    total_C1 = jnp.where(alike & (row >= column), decay_1C, 0).sum(1, keepdims=True)
    total_1C = jnp.where(alike & (row <= column), as_column(decay_1C), 0).sum(0, keepdims=True)
    seen = alike & (row >= column)
    pair_CS = jnp.where(seen, jnp.exp(jnp.where(seen, total_C1 - total_1C, 0)), 0)
    carry_C1 = jnp.where(document_C1 == 0, jnp.exp(total_C1), 0)

    weights_CS = _dot("nt", read_CN, write_CN) * pair_CS
    from_before_CP = _dot("nt", read_CN, state_PN.astype(read_CN.dtype))
    y_CP = _dot("nn", weights_CS.astype(x_CP.dtype), x_CP) + carry_C1 * from_before_CP
    left_C1 = as_column(jnp.where(row == C - 1, pair_CS, 0).sum(0, keepdims=True))
    left_of_state_11 = jnp.where(row[:, :1] == C - 1, carry_C1, 0).sum(0, keepdims=True)
    written_PN = _dot("tn", (x_CP * left_C1).astype(x_CP.dtype), write_CN)
    return left_of_state_11 * state_PN + written_PN, y_CP


# Products of two matrices, each as it is (n) or transposed (t): the axes that meet. Their gradients are such products
# too. Cotangents are rounded to the operands' type: a float32 one would make float32 products of all.
_CONTRACTED = {"nn": (1, 0), "nt": (1, 1), "tn": (0, 0)}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dot(kind, a, b):
    left, right = _CONTRACTED[kind]
    return jax.lax.dot_general(a, b, (((left,), (right,)), ((), ())), preferred_element_type=jnp.float32)


def _dot_backward(kind, operands, grad):
    a, b = operands
    grad = grad.astype(a.dtype)
    match kind:
        case "nn":
            grad_a, grad_b = _dot("nt", grad, b), _dot("tn", a, grad)
        case "nt":
            grad_a, grad_b = _dot("nn", grad, b), _dot("tn", grad, a)
        case "tn":
            grad_a, grad_b = _dot("nt", b, grad), _dot("nn", a, grad)
    return grad_a.astype(a.dtype), grad_b.astype(b.dtype)


_dot.defvjp(lambda kind, a, b: (_dot(kind, a, b), (a, b)), _dot_backward)


def _forward_kernel(first_ref, x_ref, decay_ref, write_ref, read_ref, document_ref, last_ref, y_ref, begin_ref, states):
    from jax.experimental import pallas as pl

    head = pl.program_id(3)

    @pl.when(pl.program_id(2) == 0)
    def _():
        states[head] = first_ref[...]

    begin_ref[...] = states[head]
    inputs = (ref[...] for ref in (x_ref, decay_ref, write_ref, read_ref, document_ref))
    state_PN, y_ref[...] = _chunk(states[head], *inputs)
    states[head] = last_ref[...] = state_PN


def _backward_kernel(
    begin_ref,
    x_ref,
    decay_ref,
    write_ref,
    read_ref,
    document_ref,
    grad_last_ref,
    grad_y_ref,
    grad_x_ref,
    grad_decay_ref,
    grad_write_ref,
    grad_read_ref,
    grad_first_ref,
    grad_states,
):
    from jax.experimental import pallas as pl

    head = pl.program_id(3)

    @pl.when(pl.program_id(2) == 0)
    def _():
        grad_states[head] = grad_last_ref[...]

    @pl.when(head == 0)
    def _():
        grad_write_ref[...] = jnp.zeros_like(grad_write_ref)
        grad_read_ref[...] = jnp.zeros_like(grad_read_ref)

    document_1C = document_ref[...]
    inputs = [ref[...] for ref in (begin_ref, x_ref, decay_ref, write_ref, read_ref)]
    _, pull = jax.vjp(lambda *inputs: _chunk(*inputs, document_1C), *inputs)
    grad_state_PN, grad_x_CP, grad_decay_ref[...], grad_write_CN, grad_read_CN = pull(
        (grad_states[head], grad_y_ref[...])
    )
    grad_states[head] = grad_first_ref[...] = grad_state_PN
    grad_x_ref[...] = grad_x_CP
    grad_write_ref[...] += grad_write_CN.astype(jnp.float32)
    grad_read_ref[...] += grad_read_CN.astype(jnp.float32)


class _Blocks:
    """What a program of the grid (row, group, chunk, head of the group) sees of each array; `order` maps the third to
    the chunk."""

    def __init__(self, C, R, order):
        from jax.experimental import pallas as pl

        spec = pl.BlockSpec
        self.state = lambda P, N: spec((None, None, P, N), lambda b, g, q, r: (b, g * R + r, 0, 0))
        self.begin = lambda P, N: spec((None, None, None, P, N), lambda b, g, q, r: (b, g * R + r, order(q), 0, 0))
        self.head = lambda width: spec((None, None, C, width), lambda b, g, q, r: (b, g * R + r, order(q), 0))
        self.group = lambda width: spec((None, None, C, width), lambda b, g, q, r: (b, g, order(q), 0))
        self.decay = spec((None, None, None, 1, C), lambda b, g, q, r: (b, g * R + r, order(q), 0, 0))
        self.document = spec((None, None, 1, C), lambda b, g, q, r: (b, order(q), 0, 0))


def _call(kernel, grid, in_specs, out_specs, out_shapes, states_shape):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(*shape) for shape in out_shapes],
        scratch_shapes=[pltpu.VMEM(states_shape, jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")),
        interpret=is_interpreting(),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(C, state_BHPN, x_BHTP, decay_BHQ1C, write_BGTN, read_BGTN, document_BQ1C):
    return _scan_forward(C, state_BHPN, x_BHTP, decay_BHQ1C, write_BGTN, read_BGTN, document_BQ1C)[0]


def _scan_forward(C, *inputs):
    state_BHPN, x_BHTP, _, write_BGTN, _, _ = inputs
    (B, H, P, N), T, G = state_BHPN.shape, x_BHTP.shape[2], write_BGTN.shape[1]
    R, Q = H // G, T // C
    blocks = _Blocks(C, R, lambda q: q)
    last_BHPN, y_BHTP, begin_BHQPN = _call(
        _forward_kernel,
        (B, G, Q, R),
        [blocks.state(P, N), blocks.head(P), blocks.decay, blocks.group(N), blocks.group(N), blocks.document],
        [blocks.state(P, N), blocks.head(P), blocks.begin(P, N)],
        [((B, H, P, N), jnp.float32), ((B, H, T, P), jnp.float32), ((B, H, Q, P, N), jnp.float32)],
        (R, P, N),
    )(*inputs)
    return (last_BHPN, y_BHTP), (begin_BHQPN, *inputs[1:])


def _scan_backward(C, residuals, cotangents):
    begin_BHQPN, x_BHTP, decay_BHQ1C, write_BGTN, read_BGTN, _ = residuals
    (B, H, Q, P, N), G = begin_BHQPN.shape, write_BGTN.shape[1]
    blocks = _Blocks(C, H // G, lambda q: Q - 1 - q)
    grad_x, grad_decay, grad_write, grad_read, grad_first = _call(
        _backward_kernel,
        (B, G, Q, H // G),
        [
            *(blocks.begin(P, N), blocks.head(P), blocks.decay, blocks.group(N), blocks.group(N), blocks.document),
            *(blocks.state(P, N), blocks.head(P)),
        ],
        [blocks.head(P), blocks.decay, blocks.group(N), blocks.group(N), blocks.state(P, N)],
        [
            (x_BHTP.shape, x_BHTP.dtype),
            (decay_BHQ1C.shape, jnp.float32),
            (write_BGTN.shape, jnp.float32),
            (read_BGTN.shape, jnp.float32),
            ((B, H, P, N), jnp.float32),
        ],
        (H // G, P, N),
    )(*residuals, *cotangents)
    return grad_first, grad_x, grad_decay, grad_write.astype(write_BGTN.dtype), grad_read.astype(read_BGTN.dtype), None


_scan.defvjp(_scan_forward, _scan_backward)
