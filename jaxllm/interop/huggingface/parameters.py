"""Parameters out of stored tensors, straight into their places on the devices, and back into tensors.

What the host holds at a time is one device's part of one parameter, and at most one tensor that had to be copied to
merge its axes; everything else is a view of a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.interop.huggingface.safetensors_files import StoredTensor
from jaxllm.interop.huggingface.safetensors_writing import PlannedTensor
from jaxllm.interop.huggingface.weight_map import Leaf, WeightMap, leaves_of
from jaxllm.models.declare import Params, Spec
from jaxllm.parallel.sharding import Layout, param_shardings

_SHOWN = 12  # problems listed in one message


def read_params(
    spec: Spec,
    weight_map: WeightMap,
    stored: Mapping[str, StoredTensor],
    source: str,
    *,
    layout: Layout | None = None,
    dtype: Any = jnp.float32,
    allow_nonfinite: bool = False,
) -> Params:
    """The declared parameters in `dtype`, sharded by `layout`, or on the first local device without one.

    Raises ValueError naming every tensor that is missing, has another shape than the model wants, or is not known, and
    the first that holds a NaN or an infinity.
    """
    leaves = leaves_of(spec, weight_map)
    tensors = _fitting(leaves, weight_map, stored, source)
    if layout is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = [here] * len(leaves)
    else:
        shardings = jax.tree.leaves(param_shardings(spec, layout))
    dtype = np.dtype(jnp.dtype(dtype))
    arrays = [
        _place(leaf, sharding, lambda index, leaf=leaf: _read(leaf, tensors, index, dtype, allow_nonfinite))
        for leaf, sharding in zip(leaves, shardings, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(spec), arrays)


def _fitting(
    leaves: list[Leaf], weight_map: WeightMap, stored: Mapping[str, StoredTensor], source: str
) -> dict[str, StoredTensor]:
    """The stored tensors by the names that the rules have."""
    expected = {p.theirs: p.rearrangement.theirs_shape for leaf in leaves for p in leaf.pieces}
    base, known = weight_map.base, dict(stored)
    if base and not any(name.startswith(base) for name in stored):
        known = {base + name if base + name in expected else name: tensor for name, tensor in stored.items()}
    problems = []
    for name, shape in expected.items():
        if name not in known:
            problems.append(f"{name} is missing; expected {shape}")
        elif known[name].shape != shape:
            problems.append(f"{name} has the shape {known[name].shape}; expected {shape}")
        elif not jnp.issubdtype(known[name].dtype, jnp.floating):
            problems.append(f"{name} has the type {known[name].dtype}; weights are floating-point numbers")
    for name in sorted(known.keys() - expected.keys()):
        if name in weight_map.tied:
            _refuse_difference(known, name, weight_map.tied[name], source)
        elif not any(re.fullmatch(pattern, name.removeprefix(base)) for pattern in weight_map.ignored):
            problems.append(f"{name} {known[name].shape} is not a tensor of this model")
    if problems:
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN]) + rest
        raise ValueError(f"{source} does not hold what its config asks for:\n  {listed}")
    return known


def _refuse_difference(stored: Mapping[str, StoredTensor], copy: str, original: str, source: str) -> None:
    if original not in stored:
        return  # which is reported as missing
    one, other = stored[copy].array(), stored[original].array()
    rows = 4096  # compared at a time, so that no whole table is in memory
    if one.shape != other.shape or not all(
        np.array_equal(one[row : row + rows], other[row : row + rows]) for row in range(0, len(one), rows)
    ):
        raise ValueError(
            f"{source}: the config says that {copy} is {original} (tie_word_embeddings), but it is another tensor"
        )


def _place(leaf: Leaf, sharding: jax.sharding.Sharding, read) -> jax.Array:
    """The sharded array, one part after another: each is read once, copied to its devices and dropped."""
    shape = leaf.param.shape
    devices_of: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        devices_of.setdefault(bounds, []).append(device)
    parts = {}
    for bounds, devices in devices_of.items():
        part = read(bounds)
        for device in devices:
            parts[device] = jax.device_put(part, device)
            parts[device].block_until_ready()
    arrays = [parts[device] for device in sharding.addressable_devices_indices_map(shape)]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _read(
    leaf: Leaf,
    tensors: Mapping[str, StoredTensor],
    bounds: tuple[tuple[int, int], ...],
    dtype: np.dtype,
    allow_nonfinite: bool,
) -> np.ndarray:
    """The part of a parameter between these bounds."""
    out = np.empty([stop - start for start, stop in bounds], dtype)
    for piece in leaf.pieces:
        wanted = _within(piece.select, bounds)
        if wanted is None:
            continue
        inside, outside = wanted
        tensor = tensors[piece.theirs]
        with np.errstate(over="ignore"):  # what overflows is named below
            values = piece.rearrangement.to_ours(tensor.array())[inside].astype(dtype, copy=False)
        if not (allow_nonfinite or np.isfinite(values).all()):
            within = f"as {dtype}" if np.isfinite(tensor.array()).all() else "in the file: the model is damaged"
            raise ValueError(
                f"{tensor.file}: tensor {piece.theirs!r} holds NaN or infinity {within}. To load it all the same, say "
                "allow_nonfinite=True"
            )
        out[outside] = values
    return out


def _within(select, bounds) -> tuple[tuple, tuple] | None:
    """What of a piece lies between the bounds, and where it goes; None for nothing."""
    inside: list[Any] = []
    outside: list[Any] = []
    for place, (start, stop) in zip(select, bounds, strict=True):
        if isinstance(place, int):
            if not start <= place < stop:
                return None
            outside.append(place - start)
        else:
            inside.append(slice(start, stop))
            outside.append(slice(None))
    return tuple(inside), tuple(outside)


def planned_tensors(spec: Spec, params: Params, weight_map: WeightMap, dtype: Any = None) -> dict[str, PlannedTensor]:
    """Their tensors, in the order of the layers, each made when it is asked for; `dtype` None keeps that of ours.

    Raises ValueError for parameters that are not plain arrays of this model, or that lie on other hosts.
    """
    leaves = leaves_of(spec, weight_map)
    arrays = jax.tree.leaves(params)
    if jax.tree.structure(params) != jax.tree.structure(spec):
        raise ValueError("the parameters are not plain arrays of this model: merge adapters and dequantize them first")
    sources: dict[str, list] = {}
    for leaf, array in zip(leaves, arrays, strict=True):
        if not getattr(array, "is_fully_addressable", True):
            raise ValueError(f"{leaf.path} lies on several hosts: gather the parameters on one to save them")
        for piece in leaf.pieces:
            sources.setdefault(piece.theirs, []).append((array, piece))
    number = lambda name: [int(part) if part.isdigit() else -1 for part in name.split(".")]  # noqa: E731
    return {name: _planned(sources[name], dtype) for name in sorted(sources, key=lambda name: (number(name), name))}


def _on_host(array: jax.Array, select: tuple[int | slice, ...]) -> np.ndarray:
    """A part of an array; of one that is in the host's memory already, a view."""
    if isinstance(array, jax.Array) and array.is_fully_replicated and next(iter(array.devices())).platform == "cpu":
        return np.asarray(array)[select]
    return np.asarray(array[select])


def _planned(sources: list, dtype: Any) -> PlannedTensor:
    shape = sources[0][1].rearrangement.theirs_shape
    dtype = np.dtype(jnp.dtype(dtype or sources[0][0].dtype))

    def make() -> np.ndarray:
        out, filled = np.empty(shape, dtype), 0
        for array, piece in sources:
            values = _on_host(array, piece.select)
            piece.rearrangement.put(values.astype(dtype), out)
            filled += values.size
        assert filled == out.size, (sources[0][1].theirs, filled, out.size)
        return out

    return PlannedTensor(shape, dtype, make)
