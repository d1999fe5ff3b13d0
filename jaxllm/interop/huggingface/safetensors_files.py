"""Tensors in safetensors files: one file or several with an index, as views that read nothing until they are used.

A file is eight bytes with the length of a header, the header (a JSON object: name -> dtype, shape, data_offsets), and
the data. Nothing in it is trusted: what the header says is checked against the file before a byte of data is touched.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file."""

    name: str
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    _bytes: np.ndarray

    def array(self) -> np.ndarray:
        """A read-only view of the file: slicing it reads only the pages that the slice lies on."""
        return self._bytes.view(self.dtype).reshape(self.shape)


def read_directory(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a model's directory, by name: of model.safetensors, or of the files that the index lists.

    Raises ValueError, naming file and tensor, where there is none, where a header lies, and where index and files do
    not belong together. Pickle files are refused: to read one is to run the program in it.
    """
    if (directory / INDEX_FILE).is_file():
        return _read_indexed(directory)
    if (directory / SINGLE_FILE).is_file():
        return read_file(directory / SINGLE_FILE)
    found = sorted(path.name for path in directory.glob("*.safetensors"))
    if len(found) == 1:
        return read_file(directory / found[0])
    if found:
        raise ValueError(f"{directory} has {len(found)} safetensors files ({found[0]}, ...), but no {INDEX_FILE}")
    if pickles := sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES):
        raise ValueError(
            f"{directory} has its weights in {pickles[0]}, a pickle file: reading it would run whatever program is in "
            "it. Convert it where that does no harm (AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW) of "
            "transformers writes safetensors), and load the result"
        )
    raise ValueError(f"{directory} has no weights: looked for {SINGLE_FILE} and {INDEX_FILE}")


def read_file(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. Raises ValueError for a header that does not describe the file."""
    size = file.stat().st_size
    if size < 8:
        raise ValueError(f"{file}: {size} bytes are too few for a safetensors file")
    data = np.asarray(np.memmap(file, np.uint8, mode="r"))
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise ValueError(f"{file}: the header claims to be {length} bytes long, but the file has {size}: it is damaged")
    header, data = _parse_header(file, data[8 : 8 + length].tobytes()), data[8 + length :]
    tensors = {name: _tensor(file, name, entry, data) for name, entry in header.items()}
    _check_layout(file, header, data.size)
    return tensors


def _parse_header(file: Path, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: the header is no JSON object: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{file}: the header is no JSON object, but a {type(header).__name__}")
    header.pop("__metadata__", None)
    return header


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in entries if names.count(name) > 1)!r} is there twice")
    return entries


def _tensor(file: Path, name: str, entry: Any, data: np.ndarray) -> StoredTensor:
    def lies(what: str) -> ValueError:
        return ValueError(f"{file}: tensor {name!r}: {what}; the header is damaged or forged")

    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]}:
            pass
        case _:
            raise lies(f"expected dtype, shape and data_offsets, found {str(entry)[:100]}")
    if dtype not in DTYPES:
        raise ValueError(f"{file}: tensor {name!r} has the type {dtype}, supported are {', '.join(DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise lies(f"shape {shape} and offsets {[begin, end]} must be whole numbers from 0")
    if not begin <= end <= data.size:
        raise lies(f"bytes {begin} to {end} are not within the {data.size} bytes of data")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        raise lies(f"{dtype} of shape {shape} takes {expected} bytes, the offsets give it {end - begin}")
    return StoredTensor(name, file, DTYPES[dtype], tuple(shape), data[begin:end])


def _check_layout(file: Path, header: dict[str, Any], size: int) -> None:
    """The format wants the data used from its first byte to its last, each once."""
    position, before = 0, None
    for begin, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if begin < position:
            raise ValueError(f"{file}: tensors {before!r} and {name!r} overlap; the header is damaged or forged")
        if begin > position:
            raise ValueError(f"{file}: nothing is said of the bytes before tensor {name!r}; the header is damaged")
        position, before = end, name
    if position != size:
        raise ValueError(f"{file}: the tensors end at byte {position}, the data at {size}: the file is damaged")


def _read_indexed(directory: Path) -> dict[str, StoredTensor]:
    index = directory / INDEX_FILE
    try:
        entries = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{index} is no JSON object: {error}") from error
    match entries:
        case {"weight_map": dict(files)} if all(isinstance(file, str) for file in files.values()):
            pass
        case _:
            raise ValueError(f"{index} must have an object weight_map: tensor name -> file name")
    shards = {}
    for name in sorted(set(files.values())):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is no safetensors file of its own directory")
        if not (directory / name).is_file():
            raise ValueError(f"{index} names {name}, which is not there: the download is not complete")
        shards[name] = read_file(directory / name)
    for tensor, file in files.items():
        if tensor not in shards[file]:
            raise ValueError(f"{directory / file} does not hold the tensor {tensor!r} that {index.name} says it holds")
    _refuse_unlisted(index, files, shards)
    return {name: shards[file][name] for name, file in files.items()}


def _refuse_unlisted(index: Path, files: dict[str, str], shards: dict[str, dict[str, StoredTensor]]) -> None:
    for file, tensors in shards.items():
        if unlisted := next((name for name in tensors if files.get(name) != file), None):
            raise ValueError(f"{index} does not list the tensor {unlisted!r} of {file}")
    prefix = index.name.split(".")[0] + "-"
    for path in sorted(index.parent.glob(f"{prefix}*-of-*.safetensors")):
        if path.name not in shards:
            raise ValueError(f"{index} does not list the file {path.name} beside it: one of the two is not whole")
