"""Modules that predict further tokens than the next, as parameters and as functions over the residual stream.

The main model predicts token i+1 at position i; module k (from 1) predicts token i+k+1 there. Embedding and head are
the decoder's.

Shape letters: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.block import Block
from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import Param
from jaxllm.models.einsum import einsum
from jaxllm.models.initializers import out_of_stream
from jaxllm.models.layer import Context
from jaxllm.models.norm import Norm, norm_spec, normalize
from jaxllm.models.segments import Remat, run_segments, segment_spec
from jaxllm.parallel.sharding import gather_stream


@struct.dataclass
class MultiTokenModule:
    """Norms and projection are None for parallel modules. The block is stacked over its one layer."""

    embedding_norm: Norm | None
    hidden_norm: Norm | None
    projection: jax.Array | None  # [2D, D]: first the rows of the embedding, as in DeepSeek's weights
    blocks: tuple[Block, ...]
    norm: Norm


def multi_token_spec(config: ModelConfig) -> tuple[MultiTokenModule, ...] | None:
    """The declarations of all modules; None where there are none."""
    if config.multi_token is None or not config.multi_token.depth:
        return None
    D, sequential = config.d_model, config.multi_token.kind == "sequential"
    norm = norm_spec(config.norm, D)
    projection = Param((2 * D, D), ("inner", "embed"), out_of_stream(config, fan_in=2 * D))
    return tuple(
        MultiTokenModule(
            embedding_norm=norm if sequential else None,
            hidden_norm=norm if sequential else None,
            projection=projection if sequential else None,
            blocks=segment_spec(config, _segment(config, depth)),
            norm=norm,
        )
        for depth in range(1, config.multi_token.depth + 1)
    )


def run_modules(
    modules: tuple[MultiTokenModule, ...],
    config: ModelConfig,
    x_BTD: jax.Array,
    stream_BTD: jax.Array,
    context: Context,
    embeddings: Callable[[int, jax.Array], jax.Array],
    *,
    dropout_key: jax.Array | None = None,
    remat: Remat = "none",
) -> Iterator[tuple[jax.Array, Any]]:
    """For each depth k, what the head reads to predict token i+k+1, [B, T, D], and the statistics of its block.

    Sequential modules (DeepSeek-V3, 2.2, equations 21 to 23) join the embedding of token i+k, `embeddings(k, what the
    head read at depth k-1)`, to the representation of depth k-1. The report leaves open whether that is taken before or
    after the final norm; here it is what the head reads, `x_BTD` at first, for so the released weights are run.
    Parallel ones (Gloeckle et al. 2024) read the trunk, `stream_BTD`; the next token's head has no block of its own.
    """
    for depth, module in enumerate(modules, 1):
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, depth)
        entering_BTD = stream_BTD
        if module.projection is not None:
            embedded_BTD = normalize(module.embedding_norm, config.norm, embeddings(depth, x_BTD))
            hidden_BTD = normalize(module.hidden_norm, config.norm, x_BTD)
            joined = jnp.concatenate([embedded_BTD, hidden_BTD], axis=-1)
            entering_BTD = einsum("BTI,ID->BTD", joined, module.projection)
        out_BTD, _, statistics = run_segments(
            (module.blocks,),
            config,
            (_segment(config, depth),),
            entering_BTD,
            context,
            None,
            dropout_key=key,
            remat=remat,
        )
        x_BTD = gather_stream(normalize(module.norm, config.norm, out_BTD))
        yield x_BTD, statistics[0]


def _segment(config: ModelConfig, depth: int) -> Segment:
    """A module's block is like the model's last, and counts as the next layer."""
    return Segment((config.blocks()[-1],), 1, config.num_layers + depth - 1)
