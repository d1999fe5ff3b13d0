"""Parameters are declared once; everything else about them is a map over the declarations.

A *spec* is a parameter dataclass whose leaves are `Param`. Initialization, abstract shapes, shardings, checkpoint
targets, decay masks and counts are each one `jax.tree.map` over it. `Param` is deliberately not a pytree node, so
`tree.map` sees a leaf.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Spec = Any  # a pytree of Param
Params = Any  # the same pytree, of arrays


def normal(std: float) -> Initializer:
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.zeros(shape, dtype)


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.ones(shape, dtype)


@dataclass(frozen=True)
class Param:
    """One parameter: its shape, the logical name of each axis, and how it starts.

    Axis names are the vocabulary of `jaxllm.parallel.sharding.Rules`. A matrix that reads or writes the residual stream
    has an axis "embed"; a vector along the stream (a norm's scale, a bias) has "residual" instead, and is neither
    sharded nor decayed. `matrix` overrules this where it is wrong: for a projection between two inner widths.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initializer
    matrix: bool | None = None

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"a parameter of shape {self.shape} needs {len(self.shape)} axis names, got {self.axes}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it maps to or from the residual stream: such parameters get weight decay, vectors do not."""
        return "embed" in self.axes if self.matrix is None else self.matrix

    @property
    def is_hidden_matrix(self) -> bool:
        """A matrix inside the stack, neither a table of tokens or positions nor the head: what Muon is meant for."""
        return self.is_matrix and not {"vocab", "position"} & set(self.axes)


def stack(spec: Spec, layers: int) -> Spec:
    """The same declarations with a leading `layers` axis."""
    return jax.tree.map(lambda p: replace(p, shape=(layers, *p.shape), axes=("layers", *p.axes)), spec)


def initialize(spec: Spec, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Draw every parameter. Each leaf's key depends on its path alone, so adding a parameter changes no other."""

    def draw(path, param: Param):
        leaf_key = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return param.init(leaf_key, param.shape, dtype)

    return jax.tree_util.tree_map_with_path(draw, spec)


def abstract(spec: Spec, dtype: Any = jnp.float32) -> Params:
    """Shapes and types without memory, for `jax.eval_shape`-like uses and checkpoint targets."""
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), spec)


def count(spec: Spec) -> int:
    """Number of parameters, from declarations alone."""
    return sum(p.size for p in jax.tree.leaves(spec))


def decay_mask(spec: Spec) -> Any:
    """True where weight decay applies: matrices on the residual stream, not norms, biases or scales."""
    return jax.tree.map(lambda p: p.is_matrix, spec)
