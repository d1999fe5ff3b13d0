"""Files of trained models: arrays under names, with the kind of model they are for."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxllm.data.atomic import new_file


class ModelFileError(ValueError):
    """A file that holds no model of the kind that was asked for; the message names the file."""


def save_arrays(path: str | Path, kind: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file that is there as a whole or not at all; a file of that name is replaced."""
    with new_file(Path(path)) as file:
        np.savez(file, kind=np.array(kind), **arrays)


def load_arrays(path: str | Path, kind: str) -> dict[str, np.ndarray]:
    """Raises ModelFileError for a file that is missing, damaged, or of another kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file; train a {kind} and save it there") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, AttributeError) as error:
        raise ModelFileError(f"{path}: can't be read as a {kind}, the file is damaged: {error}") from error
    found = str(arrays.pop("kind", "file of something else"))
    if found != kind:
        raise ModelFileError(f"{path}: expected a {kind}, found a {found}")
    return arrays


def version_of(path: str | Path) -> int:
    """Changes when the file is replaced, so that a process that has the old one in memory reads the new."""
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def pack_words(words: list[str]) -> np.ndarray:
    """Words without line ends, as bytes: they take no more than their length, unlike an array of strings."""
    return np.frombuffer("\n".join(words).encode(), np.uint8)


def unpack_words(packed: np.ndarray) -> list[str]:
    return packed.tobytes().decode().split("\n")
