"""What the backward pass needs of the forward pass, traced from the model itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxllm.models.config import ModelConfig, Segment
from jaxllm.models.declare import abstract
from jaxllm.models.layer import Context
from jaxllm.models.remat import Remat, group_size, remat_runs
from jaxllm.models.segments import run_segments, segment_spec

RULE = (
    "kept: the arrays that jax's traced forward pass hands to the backward pass, weights apart (a compiler may keep "
    "fewer); working: under remat, what is computed again at one time, a layer, a group of layers or the inside of its "
    "attention; host: the kept ones that wait in host memory"
)


@dataclass(frozen=True)
class Activations:
    kept: int
    """Bytes on the device that live from the forward to the backward pass."""
    working: int
    """Further bytes while one layer (one turn of a pattern of layers), or a group of them, is computed again."""
    host: int = 0
    """Bytes that live in host memory meanwhile."""


def activations(config: ModelConfig, rows: int, length: int, remat: Remat) -> Activations:
    """Of the layers, for `rows` sequences of `length` on one device. Nothing is allocated or computed."""
    kept = working = host = 0
    for segment in config.segments():
        saved = saved_bytes(config, segment, rows, length, remat)
        kept, host = kept + saved.kept, host + saved.host
        for turns, policy in remat_runs(segment, remat):
            if policy.policy == "none":
                continue
            at_once = group_size(policy, turns) if policy.policy in ("every", "sqrt") else 1
            part = replace(segment, repeats=at_once)
            again = saved_bytes(config, part, rows, length, "none").kept
            if policy.policy == "attention":
                again -= saved_bytes(config, part, rows, length, "attention").kept
            working = max(working, again)
    return Activations(kept, working, host)


def saved_bytes(config: ModelConfig, segment: Segment, rows: int, length: int, remat: Remat) -> Activations:
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
    for equation in traced.eqns:  # weights seen in another shape are still where they were
        if equation.primitive.name == "reshape" and id(equation.invars[0]) in given:
            given.add(id(equation.outvars[0]))
    # Literals have no place in memory; what came in (weights, the input's ids) is not kept for this purpose.
    saved = {id(v): v.aval for v in traced.outvars if not hasattr(v, "val") and id(v) not in given}
    on_host = [aval for aval in saved.values() if aval.memory_space == jax.memory.Space.Host]
    host = sum(map(_size, on_host))
    return Activations(sum(map(_size, saved.values())) - host, 0, host)


def _size(aval) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize
