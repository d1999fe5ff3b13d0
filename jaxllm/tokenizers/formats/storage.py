"""The files of a tokenizer: written as a whole or not at all, and read back as JSON objects."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

FILE_NAME = "tokenizer.json"


def dump(description: dict[str, Any]) -> str:
    """The text of a JSON file."""
    return json.dumps(description, ensure_ascii=False, indent=1) + "\n"


def write(directory: str | PathLike[str], files: Mapping[str, bytes]) -> None:
    """Writes files, names and contents, into a directory, which is made if need be.

    Whoever looks, at any moment and also after a crash, finds no directory or all of the files; where the directory was
    there before, each file is the old or the new one. Raises OSError if the directory can't be written.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The scratch directory lies beside the target, since a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        staged = Path(scratch) / directory.name
        staged.mkdir()
        for name, content in files.items():
            with open(staged / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if directory.is_dir():
            for name in files:
                os.replace(staged / name, directory / name)
        else:
            os.rename(staged, directory)


def replace_file(path: str | PathLike[str], data: bytes) -> None:
    """Writes one file, whole or not at all. Raises OSError if it can't be written; what was there then stays."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The path and the content of the tokenizer.json in a directory; `path` may also name the file itself.

    Raises ValueError, naming the file, if it is not there or holds no JSON object.
    """
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file}: there is no tokenizer here; name the directory of a {FILE_NAME}")
    return file, read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, naming the file, if it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not a readable JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json.loads itself lets the last of two equal keys win, and a token would silently lose its id."""
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {repeated!r} occurs twice in one object")
    return content
