"""The leaf that takes a weight's place while training multiplies in eight bits, and which weights it takes the place
of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxllm.models.declare import Param, Params, Spec
from jaxllm.quantize.config import ProductConfig
from jaxllm.quantize.products import quantized_product

Histories = dict[str, jax.Array]


@struct.dataclass
class LowPrecision:
    """A weight in its own type whose products are made in eight bits; `models.einsum` asks it for them."""

    weight: jax.Array
    history: jax.Array | None
    """Largest magnitudes of activations, weights and gradients in the last steps, [3, steps]; None: scales are
    current."""
    config: ProductConfig = struct.field(pytree_node=False)

    def product_with(self, equation: str, x: jax.Array) -> jax.Array:
        """`jnp.einsum(equation, x, weight)` in the type of `x`."""
        left, right, out = equation.replace("->", ",").split(",")
        summed = [letter for letter in right if letter not in out]
        if any(letter in left and letter in out for letter in right):
            raise ValueError(f"{equation}: a product for each of several weights is not made in eight bits")
        kept, new = [c for c in left if c not in summed], [c for c in right if c not in summed]
        size = dict(zip(left + right, x.shape + self.weight.shape, strict=True))
        x_MK = jnp.einsum(f"{left}->{''.join(kept + summed)}", x).reshape(-1, _sizes(size, summed))
        weight_KN = jnp.einsum(f"{right}->{''.join(summed + new)}", self.weight).reshape(-1, _sizes(size, new))
        y_MN = quantized_product(self.config, x_MK, weight_KN, self.history).astype(x.dtype)
        y = y_MN.reshape([size[letter] for letter in kept + new])
        return jnp.einsum(f"{''.join(kept + new)}->{out}", y)


def _sizes(size: dict[str, int], letters: list[str]) -> int:
    product = 1
    for letter in letters:
        product *= size[letter]
    return product


def multiplied(param: Param) -> bool:
    """Whether a parameter's products are made in eight bits: matrices inside the stack, but no routers and experts."""
    return param.is_hidden_matrix and not {"expert", "router"} & set(param.axes)


def empty_histories(spec: Spec, config: ProductConfig) -> Histories | None:
    """What delayed scaling remembers before the first step, by the parameter's path; None without delayed scaling."""
    if not config.delayed:
        return None
    chosen = {path: param for path, param in _by_path(spec) if multiplied(param)}
    layers = {path: param.shape[: param.axes.count("layers")] for path, param in chosen.items()}
    return {path: jnp.zeros((*stack, 3, config.history), jnp.float32) for path, stack in layers.items()}


def remember(histories: Histories, observed: Histories) -> Histories:
    """The histories after a step that saw `observed`, which is in the first column."""
    return {path: jnp.concatenate([observed[path][..., :1], old[..., :-1]], -1) for path, old in histories.items()}


def in_low_precision(params: Params, spec: Spec, config: ProductConfig, histories: Histories | None) -> Any:
    """The same parameters, with leaves that multiply in eight bits where the declarations say so."""
    if config.kind == "none":
        return params
    leaves, structure = jax.tree.flatten(params)
    replaced = [
        LowPrecision(leaf, None if histories is None else histories[path], config) if multiplied(param) else leaf
        for leaf, (path, param) in zip(leaves, _by_path(spec), strict=True)
    ]
    return structure.unflatten(replaced)


def _by_path(spec: Spec) -> list[tuple[str, Param]]:
    leaves = jax.tree_util.tree_leaves_with_path(spec)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), param) for path, param in leaves]
