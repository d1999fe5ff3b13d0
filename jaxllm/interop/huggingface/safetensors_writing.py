"""Writing safetensors files tensor by tensor, split into several where they grow too large."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxllm.interop.huggingface.safetensors_files import DTYPES, INDEX_FILE, SINGLE_FILE

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to write; `make` is called when it is its turn, and what it gives is dropped after."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_directory(directory: Path, tensors: Mapping[str, PlannedTensor], max_file_bytes: int) -> None:
    """model.safetensors, or files of at most `max_file_bytes` (a larger tensor has its own) and their index."""
    shards = list(_shards(tensors, max_file_bytes))
    if len(shards) == 1:
        write_file(directory / SINGLE_FILE, tensors)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.num_bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, PlannedTensor], max_file_bytes: int) -> Iterable[list[str]]:
    names, size = [], 0
    for name, tensor in tensors.items():
        if names and size + tensor.num_bytes > max_file_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.num_bytes
    yield names


def write_file(file: Path, tensors: Mapping[str, PlannedTensor]) -> None:
    """One file. Its metadata says format "pt", which transformers asks for: names and layouts are PyTorch's."""
    header, position = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = position + tensor.num_bytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight bytes
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for name, tensor in tensors.items():
            array = np.asarray(tensor.make(), tensor.dtype)
            assert array.shape == tensor.shape, (name, array.shape, tensor.shape)
            out.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
