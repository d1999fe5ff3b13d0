"""Rematerialization: scanning over layers so that the backward pass keeps only what a policy says.

Sources: one input in sqrt(L) layers, Chen et al. 2016; recomputing attention alone, Korthikanti et al. 2022.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxllm.models.config import Segment
from jaxllm.models.config.remat import RematConfig, parse_remat

Remat = str  # a setting, see `models.config.remat`
Layer = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
Function = TypeVar("Function", bound=Callable[..., Any])

DEVICE, HOST = "device", "pinned_host"


def scan_segment(layer: Layer, x: jax.Array, stacked: Any, segment: Segment, remat: Remat) -> tuple[jax.Array, Any]:
    """`jax.lax.scan(layer, x, stacked)` over a segment's layers, whose derivative keeps what `remat` says.

    A segment that lies in several policies is scanned in as many parts, for which its parameters are sliced. Raises
    ValueError when a policy ends within a turn of the pattern.
    """
    runs, outputs = _runs(segment, parse_remat(remat)), []
    for start, stop, config in runs:
        part = stacked if len(runs) == 1 else jax.tree.map(lambda a, s=slice(start, stop): a[s], stacked)
        x, output = _scan(layer, x, part, stop - start, config)
        outputs.append(output)
    return x, _joined(outputs)


def remat_runs(segment: Segment, remat: Remat) -> list[tuple[int, RematConfig]]:
    """How many turns of a segment's pattern each policy holds for."""
    return [(stop - start, config) for start, stop, config in _runs(segment, parse_remat(remat))]


def group_size(config: RematConfig, turns: int) -> int:
    """Turns of the pattern of which one input is kept."""
    return min(turns, config.every if config.policy == "every" else max(1, round(math.sqrt(turns))))


def recomputable(function: Function) -> Function:
    """Marks what the policy `attention` computes again: softmax attention, given its queries, keys and values."""

    @wraps(function)
    def core(*arrays, **settings):
        if not _recompute_attention.get():
            return function(*arrays, **settings)
        return jax.checkpoint(lambda *arrays: function(*arrays, **settings))(*arrays)

    return core


_recompute_attention: ContextVar[bool] = ContextVar("recompute_attention", default=False)


@contextlib.contextmanager
def _recomputing_attention():
    token = _recompute_attention.set(True)
    try:
        yield
    finally:
        _recompute_attention.reset(token)


def _scan(layer: Layer, x: jax.Array, stacked: Any, turns: int, config: RematConfig) -> tuple[jax.Array, Any]:
    if config.policy not in ("every", "sqrt"):
        return jax.lax.scan(rematerialized(layer, config), x, stacked)
    group = jax.checkpoint(lambda x, layers: jax.lax.scan(layer, x, layers))
    size = group_size(config, turns)
    whole = turns // size * size
    even = stacked if whole == turns else jax.tree.map(lambda a: a[:whole], stacked)
    grouped = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), even)
    x, output = jax.lax.scan(group, x, grouped)
    outputs = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), output)]
    if whole < turns:
        x, rest = group(x, jax.tree.map(lambda a: a[whole:], stacked))
        outputs.append(rest)
    return x, _joined(outputs)


def rematerialized(layer: Layer, config: RematConfig) -> Layer:
    """The layer, with what its derivative keeps settled. Groups of layers (`every`, `sqrt`) are not its affair."""
    policies = jax.checkpoint_policies
    match config.policy:
        case "none":
            return layer
        case "full":
            return jax.checkpoint(layer)
        case "attention":

            def selective(x, stacked):
                with _recomputing_attention():
                    return layer(x, stacked)

            return selective
        case "dots":
            policy = policies.dots_with_no_batch_dims_saveable
        case "names":
            policy = policies.save_only_these_names(*config.names)
        case "offload":
            policy = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=list(config.names),
                offload_src=DEVICE,
                offload_dst=HOST,
            )
        case "offload_dots":
            policy = policies.offload_dot_with_no_batch_dims(DEVICE, HOST)
        case _:
            raise ValueError(f"{config.policy} is a policy of groups of layers")
    return jax.checkpoint(layer, policy=policy)


def _runs(segment: Segment, configs: tuple[RematConfig, ...]) -> list[tuple[int, int, RematConfig]]:
    """(first turn, last turn + 1, policy), for the policies that reach into the segment."""
    blocks, runs, begins = len(segment.blocks), [], 0
    if len(configs) == 1 and configs[0].layers is None:
        return [(0, segment.repeats, configs[0])]  # wherever the segment lies, which a pipeline's program can't say
    for config in configs:
        ends = math.inf if config.layers is None else begins + config.layers
        start = max(0, begins - segment.first)
        stop = min(segment.repeats * blocks, ends - segment.first)
        if start < stop:
            if start % blocks or stop % blocks:
                raise ValueError(
                    f"a remat policy begins or ends within a turn of the pattern of {blocks} blocks that starts at "
                    f"layer {segment.first}: let it hold for whole turns"
                )
            runs.append((start // blocks, stop // blocks, config))
        begins = ends
    return runs


def _joined(outputs: list[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)
