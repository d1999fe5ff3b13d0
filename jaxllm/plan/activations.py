"""What the backward pass needs of the forward pass, traced from the model itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import abstract
from jaxllm.models.layer import Context
from jaxllm.models.segments import Remat, run_segments, segment_spec

RULE = (
    "kept: the arrays that jax's traced forward pass hands to the backward pass, weights apart (a compiler may keep "
    "fewer); working: under remat, those of the largest layer once more while it is computed again"
)


@dataclass(frozen=True)
class Activations:
    kept: int
    """Bytes that live from the forward to the backward pass."""
    working: int
    """Further bytes while one layer (one turn of a pattern of layers) is computed again; 0 without remat."""


def activations(config: ModelConfig, rows: int, length: int, remat: Remat) -> Activations:
    """Of the layers, for `rows` sequences of `length` on one device. Nothing is allocated or computed."""
    kept = working = 0
    for segment in config.segments():
        kept += saved_bytes(config, segment, rows, length, remat)
        if remat != "none":
            once = replace(segment, repeats=1)
            working = max(working, saved_bytes(config, once, rows, length, "none"))
    return Activations(kept, working)


def saved_bytes(config: ModelConfig, segment: Segment, rows: int, length: int, remat: Remat) -> int:
    """Bytes of the residuals of one segment: results of the forward pass that its derivative closes over."""
    params = abstract(segment_spec(config, segment))
    x = jax.ShapeDtypeStruct((rows, length, config.d_model), config.compute_dtype)
    places = jax.ShapeDtypeStruct((rows, length), jnp.int32)

    def forward(params, x, positions, segment_ids):
        context = Context(positions, segment_ids, segment_ids > 0)
        run = lambda params, x: run_segments((params,), config, (segment,), x, context, None, remat=remat)[0]  # noqa: E731
        return jax.vjp(run, params, x)[1]

    traced = jax.make_jaxpr(forward)(params, x, places, places).jaxpr
    given = set(map(id, traced.invars))
    # Literals have no place in memory; what came in (weights, the input's ids) is not kept for this purpose.
    saved = {id(v): v.aval for v in traced.outvars if not hasattr(v, "val") and id(v) not in given}
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in saved.values())
