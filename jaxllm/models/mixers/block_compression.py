"""Blocks of tokens as one key or value each: where blocks begin, and how a block is compressed.

Shape letters: B batch, T time, N blocks, P positions of a block, G key/value heads, K head width, M hidden width.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.declare import Param, normal
from jaxllm.models.einsum import einsum


@struct.dataclass
class Compressor:
    """An MLP over the concatenated tokens of a block, each with an embedding of its place in it."""

    place: jax.Array  # [P, K]
    up: jax.Array  # [P, K, M]
    down: jax.Array  # [M, K]


def compressor_spec(block: int, width: int) -> Compressor:
    """The declarations for blocks of `block` tokens; the hidden width is twice a head's."""
    hidden = 2 * width
    return Compressor(
        place=Param((block, width), ("conv", "head_dim"), normal(0.02)),
        up=Param((block, width, hidden), ("conv", "head_dim", "latent"), normal(1 / math.sqrt(block * width)), True),
        down=Param((hidden, width), ("latent", "head_dim"), normal(1 / math.sqrt(hidden)), True),
    )


def compress(p: Compressor | None, tokens_BNPGK: jax.Array) -> jax.Array:
    """One vector a block and head, [B, N, G, K]: the mean where there is no compressor."""
    if p is None:
        return tokens_BNPGK.mean(2)
    placed = tokens_BNPGK + p.place[:, None].astype(tokens_BNPGK.dtype)
    hidden_BNGM = jax.nn.gelu(einsum("BNPGK,PKM->BNGM", placed, p.up))
    return einsum("BNGM,MK->BNGK", hidden_BNGM, p.down)


def block_starts(positions_BT: jax.Array, segment_ids_BT: jax.Array, block: int, stride: int) -> jax.Array:
    """Where in a row the whole blocks begin, [B, N] with T where there is no further one.

    A block begins every `stride` tokens of a document and lies in it whole. N = T // stride is enough for any packing.
    """
    T = positions_BT.shape[1]
    last = jnp.arange(T) + block - 1
    same = segment_ids_BT == segment_ids_BT[:, jnp.minimum(last, T - 1)]
    begins = (positions_BT % stride == 0) & (last < T) & same & (segment_ids_BT > 0)
    # Fewer than T // stride documents and blocks fit: a document of n tokens has (n - block) // stride + 1 of them.
    order = jnp.where(begins, jnp.arange(T), T)
    return jnp.sort(order, axis=1)[:, : max(1, T // stride)]
