"""Cross-entropy over a large vocabulary without its logits: a chunk of positions at a time.

The float32 logits of a whole batch are the largest array of a training step (8 x 1024 tokens of GPT-2 take 1.6 GB).
Here only one chunk of them lives at any moment, and the gradients are formed in the same pass, so the backward pass has
no logits to recompute.

Shape letters: B batch, T time, C chunk of time, D model width, V vocabulary, N devices that share the
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import AxisType

from jaxllm.parallel.sharding import constrain, constrain_gradient, current_layout
from jaxllm.parallel.text_order import splits_text

# The positions of a chunk on one device: as many as keep its float32 logits within 2^22 elements (16 MB), at least
# 1024. A chunk of n positions reads the head and reads and writes the sum of its gradient: 10 V D bytes for 6 n V D
# operations. With a few dozen, every device waits for its memory (GPT-2's head on two cores: 43 GFLOP/s with 64
# positions, 179 with 1024).
CHUNK_ELEMENTS = 2**22
CHUNK_POSITIONS = 1024


@struct.dataclass
class CrossEntropy:
    """Weighted sums over the tokens of a batch, in nats."""

    nll: jax.Array
    z: jax.Array  # sum of log(Z)^2, the term of the z-loss
    correct: jax.Array  # weight of the targets that were the most likely token


@dataclass(frozen=True)
class _Settings:
    chunk: int
    z_loss: float
    scale: float
    softcap: float


def cross_entropy(
    x_BTD, head_VD, targets_BT, weights_BT, *, bias_V=None, scale=1.0, softcap=0.0, z_loss: float = 0.0, chunk: int = 0
):
    """`(sum of weights * (nll + z_loss * log(Z)^2), CrossEntropy)` of the targets under softmax(logits).

    The logits are (x head^T + bias) * scale, and softcap * tanh(logits / softcap) of these where there is a softcap, as
    `models.unembed` makes them. `x_BTD` is in the compute type and `head_VD` is cast to it; logits and softmax are
    float32. `chunk` is the number of positions a row contributes to a chunk and must divide T; 0 picks it. The chunk is
    always smaller than T when T > 1. Only the first output is differentiable, with respect to `x_BTD`, `head_VD` and
    `bias_V`. Raises ValueError for a chunk that does not divide T. z-loss: PaLM, Chowdhery et al. 2022, section 5.
    """
    x_BTD, targets_BT, weights_BT = (_pieces(a) for a in (x_BTD, targets_BT, weights_BT))
    chunk = chunk or _pick_chunk(x_BTD.shape[0], x_BTD.shape[1], head_VD.shape[0])
    if x_BTD.shape[1] % chunk:
        raise ValueError(f"the loss chunk {chunk} must divide the sequence length {x_BTD.shape[1]}")
    return _chunked(_Settings(chunk, z_loss, scale, softcap), x_BTD, head_VD, bias_V, targets_BT, weights_BT)


def reference_cross_entropy(
    x_BTD, head_VD, targets_BT, weights_BT, *, bias_V=None, scale=1.0, softcap=0.0, z_loss: float = 0.0
):
    """The slow twin: all logits at once, gradients by autodiff."""
    logits = jnp.einsum("BTD,VD->BTV", x_BTD, head_VD.astype(x_BTD.dtype)).astype(jnp.float32)
    logits = (logits if bias_V is None else logits + bias_V) * scale
    logits = softcap * jnp.tanh(logits / softcap) if softcap else logits
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = log_z - jnp.take_along_axis(logits, targets_BT[..., None], axis=-1)[..., 0]
    correct = (logits.argmax(-1) == targets_BT) * weights_BT
    sums = CrossEntropy((nll * weights_BT).sum(), (jnp.square(log_z) * weights_BT).sum(), correct.sum())
    return sums.nll + z_loss * sums.z, jax.lax.stop_gradient(sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(settings, x_BTD, head_VD, bias_V, targets_BT, weights_BT):
    head = _gathered(head_VD, x_BTD.dtype)

    def body(sums, arrays):
        _, _, chunk_sums = _chunk_terms(settings, *arrays, head, bias_V)
        return jax.tree.map(jnp.add, sums, chunk_sums), None

    chunks = _chunks(settings.chunk, x_BTD, targets_BT, weights_BT)
    sums_B, _ = jax.lax.scan(body, _zero_sums(x_BTD.shape[0]), chunks)
    return _total(sums_B, settings.z_loss)


def _chunked_forward(settings, x_BTD, head_VD, bias_V, targets_BT, weights_BT):
    """One pass gives loss and gradients: the loss is a scalar, so its cotangent can be multiplied in later."""
    head, shards = _gathered(head_VD, x_BTD.dtype), _shards()
    # M, all positions of a shard: contracting two axes would have the compiler for CPUs transpose copies, at 1.4 times
    # the cost.
    by_shard = lambda a: a.reshape(shards, -1, a.shape[-1])  # noqa: E731

    def body(carry, arrays):
        sums_B, grad_head_NVD, grad_bias_NV = carry
        x_BCD, targets, weights = arrays
        logits, log_z, chunk_sums = _chunk_terms(settings, *arrays, head, bias_V)
        weight = weights * (1 + 2 * settings.z_loss * log_z)
        onehot = targets[..., None] == jnp.arange(head.shape[0], dtype=targets.dtype)
        grad_logits = jnp.exp(logits - log_z[..., None]) * weight[..., None] - jnp.where(onehot, weights[..., None], 0)
        if settings.softcap:
            grad_logits = grad_logits * (1 - jnp.square(logits / settings.softcap))
        grad_logits = grad_logits if settings.scale == 1 else grad_logits * settings.scale
        if bias_V is not None:
            grad_bias_NV = constrain(grad_bias_NV + by_shard(grad_logits).sum(1), "rows", "vocab")
        grad_logits = grad_logits.astype(x_BCD.dtype)
        grad_x = jnp.einsum("BCV,VD->BCD", grad_logits, head)
        grad_head_NVD += jnp.einsum(
            "NMV,NMD->NVD", by_shard(grad_logits), by_shard(x_BCD), preferred_element_type=jnp.float32
        )
        grad_head_NVD = constrain(grad_head_NVD, "rows", "vocab", None)
        return (jax.tree.map(jnp.add, sums_B, chunk_sums), grad_head_NVD, grad_bias_NV), grad_x

    # Each shard of the batch sums its own part of the head's gradient, and one reduction after the loop adds the parts:
    # a sum over the whole batch inside the loop would travel between the devices once a chunk.
    grad_head_NVD = constrain(jnp.zeros((shards, *head_VD.shape), jnp.float32), "rows", "vocab", None)
    grad_bias_NV = None if bias_V is None else constrain(jnp.zeros((shards, *bias_V.shape)), "rows", "vocab")
    start = (_zero_sums(x_BTD.shape[0]), grad_head_NVD, grad_bias_NV)
    chunks = _chunks(settings.chunk, x_BTD, targets_BT, weights_BT)
    (sums_B, grad_head_NVD, grad_bias_NV), grad_chunks = jax.lax.scan(body, start, chunks)
    grad_x = jnp.moveaxis(grad_chunks, 0, 1).reshape(x_BTD.shape)
    grad_head = constrain_gradient(grad_head_NVD.sum(0), "vocab", "embed")
    grad_bias = None if bias_V is None else constrain_gradient(grad_bias_NV.sum(0), "vocab")
    # Only types travel with the residuals: zero-size arrays say what the gradients are cast to.
    types = jax.tree.map(lambda a: jnp.zeros((0,), a.dtype), (x_BTD, head_VD, bias_V))
    return _total(sums_B, settings.z_loss), ((grad_x, grad_head, grad_bias), types)


def _chunked_backward(settings, residuals, cotangents):
    gradients, types = residuals
    loss_cotangent, _ = cotangents
    scaled = lambda gradient, like: (gradient.astype(jnp.float32) * loss_cotangent).astype(like.dtype)  # noqa: E731
    return *jax.tree.map(scaled, gradients, types), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _chunk_terms(settings, x_BCD, targets_BC, weights_BC, head_VD, bias_V):
    """Logits and log-partition of a chunk, and its weighted sums row by row."""
    logits = jnp.einsum("BCD,VD->BCV", x_BCD, head_VD, preferred_element_type=jnp.float32)
    logits = logits if bias_V is None else logits + bias_V
    logits = logits if settings.scale == 1 else logits * settings.scale
    if settings.softcap:
        logits = settings.softcap * jnp.tanh(logits / settings.softcap)
    logits = constrain(logits, "rows", None, "act_vocab")
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = _of_targets(logits, targets_BC)
    correct = (target_logits >= logits.max(-1)) * weights_BC
    nll = (log_z - target_logits) * weights_BC
    sums_B = CrossEntropy(nll.sum(-1), (jnp.square(log_z) * weights_BC).sum(-1), correct.sum(-1))
    return logits, log_z, sums_B


def _of_targets(logits, targets_BC):
    """The logit of each target, [B, C]."""
    layout = current_layout()
    if layout is None or AxisType.Manual not in layout.mesh.axis_types:
        return jnp.take_along_axis(logits, targets_BC[..., None], axis=-1)[..., 0]
    # Inside a pipeline's program, with both rows and vocabulary split, XLA's partitioner dies of that gather (jax 0.10:
    # "Check failed" in ExpandDeviceGroupsWithIota).
    chosen = targets_BC[..., None] == jnp.arange(logits.shape[-1], dtype=targets_BC.dtype)
    return jnp.where(chosen, logits, 0).sum(-1)


def _gathered(head_VD, dtype):
    """The head in the compute type with its rows whole: gathered once, before the loop over chunks."""
    return constrain(head_VD.astype(dtype), "vocab", None)


def _zero_sums(rows: int) -> CrossEntropy:
    return CrossEntropy(*(constrain(jnp.zeros((rows,), jnp.float32), "rows") for _ in range(3)))


def _total(sums_B: CrossEntropy, z_loss: float):
    sums = jax.tree.map(jnp.sum, sums_B)
    return sums.nll + z_loss * sums.z, sums


def _pieces(a_BT: jax.Array) -> jax.Array:
    """Rows cut into as many pieces as devices split them into, [pieces * B, T / pieces, ...]: a loop over chunks of a
    piece keeps all devices busy, one over chunks of the row would keep them waiting for each other."""
    layout = current_layout()
    if not splits_text(layout):
        return a_BT
    (B, T), pieces = a_BT.shape[:2], layout.ways("length")
    a_BT = jnp.moveaxis(a_BT.reshape(B, pieces, T // pieces, *a_BT.shape[2:]), 1, 0)
    return constrain(a_BT.reshape(pieces * B, T // pieces, *a_BT.shape[3:]), "rows", *[None] * (a_BT.ndim - 2))


def _shards() -> int:
    layout = current_layout()
    return layout.ways("rows") if layout else 1


def _chunks(chunk: int, *arrays):
    """[B, T, ...] to [T / chunk, B, chunk, ...]: the batch axis keeps its sharding."""
    split = lambda a: jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0)  # noqa: E731
    return tuple(split(a) for a in arrays)


def _pick_chunk(batch: int, length: int, vocab: int) -> int:
    """The longest divisor of the length, short of the length itself, that fits the budget on each device."""
    rows = max(1, batch // _shards())
    budget = max(CHUNK_ELEMENTS // vocab, CHUNK_POSITIONS)
    fitting = [c for c in range(1, max(2, length // 2 + 1)) if length % c == 0 and rows * c <= budget]
    return max(fitting, default=1)
