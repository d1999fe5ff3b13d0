"""Cross-entropy over a large vocabulary without its logits: a chunk of positions at a time.

The float32 logits of a whole batch are the largest array of a training step (8 x 1024 tokens of GPT-2 take 1.6 GB). Here only one
chunk of them lives at any moment, and the gradients are formed in the same pass, so the backward pass has no logits to recompute.

Shape letters: B batch, T time, C chunk of time, D model width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.parallel.sharding import constrain, current_layout

# Elements of one chunk's float32 logits on one device: 2^22 are 16 MB, which keeps a CPU's caches warm and a TPU's matrix units full.
CHUNK_ELEMENTS = 2**22


@struct.dataclass
class CrossEntropy:
    """Weighted sums over the tokens of a batch, in nats."""

    nll: jax.Array
    z: jax.Array  # sum of log(Z)^2, the term of the z-loss
    correct: jax.Array  # weight of the targets that were the most likely token


def cross_entropy(x_BTD, head_VD, targets_BT, weights_BT, *, z_loss: float = 0.0, chunk: int = 0):
    """`(sum of weights * (nll + z_loss * log(Z)^2), CrossEntropy)` of the targets under softmax(x head^T).

    `x_BTD` is in the compute type and `head_VD` is cast to it; logits and softmax are float32. `chunk` is the number of
    positions a row contributes to a chunk and must divide T; 0 picks it. The chunk is always smaller than T when T > 1.
    Only the first output is differentiable, with respect to `x_BTD` and `head_VD`. z-loss: PaLM, Chowdhery et al. 2022, section 5.
    Raises ValueError for a chunk that does not divide T.
    """
    chunk = chunk or _pick_chunk(x_BTD.shape[0], x_BTD.shape[1], head_VD.shape[0])
    if x_BTD.shape[1] % chunk:
        raise ValueError(f"the loss chunk {chunk} must divide the sequence length {x_BTD.shape[1]}")
    return _chunked(z_loss, chunk, x_BTD, head_VD, targets_BT, weights_BT)


def reference_cross_entropy(x_BTD, head_VD, targets_BT, weights_BT, *, z_loss: float = 0.0):
    """The slow twin: all logits at once, gradients by autodiff."""
    logits = jnp.einsum("BTD,VD->BTV", x_BTD, head_VD.astype(x_BTD.dtype)).astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nll = log_z - jnp.take_along_axis(logits, targets_BT[..., None], axis=-1)[..., 0]
    correct = (logits.argmax(-1) == targets_BT) * weights_BT
    sums = CrossEntropy((nll * weights_BT).sum(), (jnp.square(log_z) * weights_BT).sum(), correct.sum())
    return sums.nll + z_loss * sums.z, jax.lax.stop_gradient(sums)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(z_loss, chunk, x_BTD, head_VD, targets_BT, weights_BT):
    def body(sums, arrays):
        _, _, chunk_sums = _chunk_terms(*arrays, head_VD)
        return jax.tree.map(jnp.add, sums, chunk_sums), None

    sums, _ = jax.lax.scan(body, _zero_sums(), _chunks(chunk, x_BTD, targets_BT, weights_BT))
    return sums.nll + z_loss * sums.z, sums


def _chunked_forward(z_loss, chunk, x_BTD, head_VD, targets_BT, weights_BT):
    """One pass gives loss and gradients: the loss is a scalar, so its cotangent can be multiplied in later."""
    head = head_VD.astype(x_BTD.dtype)

    def body(carry, arrays):
        sums, grad_head = carry
        x_BCD, targets, weights = arrays
        probabilities, log_z, chunk_sums = _chunk_terms(x_BCD, targets, weights, head_VD)
        scale = weights * (1 + 2 * z_loss * log_z)
        onehot = targets[..., None] == jnp.arange(head_VD.shape[0], dtype=targets.dtype)
        grad_logits = (probabilities * scale[..., None] - jnp.where(onehot, weights[..., None], 0)).astype(x_BCD.dtype)
        grad_x = jnp.einsum("BCV,VD->BCD", grad_logits, head)
        grad_head = grad_head + jnp.einsum("BCV,BCD->VD", grad_logits, x_BCD, preferred_element_type=jnp.float32)
        grad_head = constrain(grad_head, "vocab", "embed")
        return (jax.tree.map(jnp.add, sums, chunk_sums), grad_head), grad_x

    start = (_zero_sums(), jnp.zeros(head_VD.shape, jnp.float32))
    (sums, grad_head), grad_chunks = jax.lax.scan(body, start, _chunks(chunk, x_BTD, targets_BT, weights_BT))
    grad_x = jnp.moveaxis(grad_chunks, 0, 1).reshape(x_BTD.shape)
    # Only types travel with the residuals: zero-size arrays say what the gradients are cast to.
    return (sums.nll + z_loss * sums.z, sums), (grad_x, grad_head, jnp.zeros((0,), head_VD.dtype))


def _chunked_backward(z_loss, chunk, residuals, cotangents):
    grad_x, grad_head, head_type = residuals
    loss_cotangent, _ = cotangents
    grad_x = (grad_x.astype(jnp.float32) * loss_cotangent).astype(grad_x.dtype)
    return grad_x, (grad_head * loss_cotangent).astype(head_type.dtype), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _chunk_terms(x_BCD, targets_BC, weights_BC, head_VD):
    """Softmax probabilities and log-partition of a chunk, and its weighted sums."""
    logits = jnp.einsum("BCD,VD->BCV", x_BCD, head_VD.astype(x_BCD.dtype), preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", None, "act_vocab")
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets_BC[..., None], axis=-1)[..., 0]
    correct = (target_logits >= logits.max(-1)) * weights_BC
    nll = (log_z - target_logits) * weights_BC
    sums = CrossEntropy(nll.sum(), (jnp.square(log_z) * weights_BC).sum(), correct.sum())
    return jnp.exp(logits - log_z[..., None]), log_z, sums


def _zero_sums() -> CrossEntropy:
    return CrossEntropy(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def _chunks(chunk: int, *arrays):
    """[B, T, ...] to [T / chunk, B, chunk, ...]: the batch axis keeps its sharding."""
    split = lambda a: jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0)  # noqa: E731
    return tuple(split(a) for a in arrays)


def _pick_chunk(batch: int, length: int, vocab: int) -> int:
    """The longest divisor of the length, short of the length itself, whose logits fit the budget on each device."""
    layout = current_layout()
    rows = max(1, batch // (layout.batch_shards if layout else 1))
    fitting = [c for c in range(1, max(2, length // 2 + 1)) if length % c == 0 and rows * c * vocab <= CHUNK_ELEMENTS]
    return max(fitting, default=1)
