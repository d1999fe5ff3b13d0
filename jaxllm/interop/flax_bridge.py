"""A jaxllm model as a Flax NNX module or as a Linen module with variables, and back.

    module = to_nnx(config, params)                      module(tokens) gives logits; nnx.split, nnx.jit, nnx.grad work
    config, params = from_nnx(module)
    module, variables = to_linen(config, params)         module.apply(variables, tokens)
    config, params = from_linen(module, variables)

Both hold the parameters under their names here: `segments.0.0.mixer.query` is at `["segments"]["0"]["0"]["mixer"]
["query"]`. The arrays are the same objects, not copies. NNX variables carry the logical axes of their declarations as
the metadata `axes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen, nnx, traverse_util

from jaxllm.models import Decoder, ModelConfig, decoder_spec, forward
from jaxllm.models.declare import initialize


class NNXModel(nnx.Module):
    """A language model: `module(tokens)` gives logits [B, T, V] in float32, as `jaxllm.forward` does."""

    def __init__(self, config: ModelConfig, params: Decoder):
        self.config = config
        axes = _nested(decoder_spec(config), lambda param: param.axes)
        leaves = jax.tree.map(lambda x, names: nnx.Param(x, axes=names), _nested(params), axes, is_leaf=_is_array)
        self.params = nnx.data(leaves)

    def __call__(self, tokens: jax.Array, *, positions=None, segment_ids=None) -> jax.Array:
        is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
        arrays = jax.tree.map(lambda variable: variable[...], self.params, is_leaf=is_variable)
        params = _from_nested(self.config, arrays)
        return forward(params, self.config, tokens, positions=positions, segment_ids=segment_ids)


class LinenModel(linen.Module):
    """A language model: `module.apply(variables, tokens)` gives logits [B, T, V] in float32. `module.init(key, tokens)`
    draws the parameters that jaxllm draws from that key."""

    config: ModelConfig

    @linen.compact
    def __call__(self, tokens: jax.Array, *, positions=None, segment_ids=None) -> jax.Array:
        nested = {}
        spec = decoder_spec(self.config)
        if self.is_initializing():
            drawn = _nested(initialize(spec, self.make_rng("params")))
            nested = {name: self.param(name, lambda _, value=value: value) for name, value in drawn.items()}
        else:
            nested = {name: self.get_variable("params", name) for name in _nested(spec)}
        params = _from_nested(self.config, nested)
        return forward(params, self.config, tokens, positions=positions, segment_ids=segment_ids)


def to_nnx(config: ModelConfig, params: Decoder) -> NNXModel:
    """The model as an NNX module."""
    return NNXModel(config, params)


def from_nnx(module: NNXModel) -> tuple[ModelConfig, Decoder]:
    """Config and parameters of a module that `to_nnx` made, as they are now."""
    state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    return module.config, _from_nested(module.config, state["params"])


def to_linen(config: ModelConfig, params: Decoder) -> tuple[LinenModel, dict[str, Any]]:
    """The model as a Linen module and its variables."""
    return LinenModel(config), {"params": _nested(params)}


def from_linen(module: LinenModel, variables: Mapping[str, Any]) -> tuple[ModelConfig, Decoder]:
    """Config and parameters of a Linen module with variables. Raises ValueError naming what is missing, left over or of
    another shape."""
    return module.config, _from_nested(module.config, variables["params"])


def _nested(tree: Any, value=lambda leaf: leaf) -> dict[str, Any]:
    """Nested dictionaries by the names on the path to each leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return traverse_util.unflatten_dict({_path(path): value(leaf) for path, leaf in leaves})


def _from_nested(config: ModelConfig, nested: Mapping[str, Any]) -> Decoder:
    spec = decoder_spec(config)
    declared, structure = jax.tree_util.tree_flatten_with_path(spec)
    # Keys of a plain dictionary of an NNX state may be numbers where ours are their digits.
    given = {tuple(map(str, path)): leaf for path, leaf in traverse_util.flatten_dict(dict(nested)).items()}
    expected = {_path(path): param for path, param in declared}
    problems = [f"missing {'.'.join(path)}" for path in expected if path not in given]
    problems += [f"unknown {'.'.join(path)}" for path in given if path not in expected]
    problems += [
        f"{'.'.join(path)}: expected {param.shape}, found {given[path].shape}"
        for path, param in expected.items()
        if path in given and tuple(given[path].shape) != param.shape
    ]
    if problems:
        raise ValueError("these are not the parameters of the model:\n  " + "\n  ".join(problems[:20]))
    return jax.tree.unflatten(structure, [given[path] for path in expected])


def _path(keys: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)


def _is_array(node: Any) -> bool:
    return not isinstance(node, dict)
