"""One or several files read as if they were one, without a copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

_PART = re.compile(r"(.+\.gguf)\.part(\d+)")


class JoinedParts:
    """The bytes of files one after the other."""

    def __init__(self, paths: Sequence[Path]):
        # An empty file can't be mapped, and has nothing.
        self._parts = [np.memmap(p, np.uint8, "r") if p.stat().st_size else np.empty(0, np.uint8) for p in paths]
        self._ends = np.cumsum([len(part) for part in self._parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(len(self))
        return self.array(begin, end).tobytes()

    def array(self, begin: int, end: int) -> np.ndarray:
        """The bytes between two places: a view, or a copy where they cross the border of two files."""
        found = [
            part[max(begin - (last - len(part)), 0) : end - (last - len(part))]
            for part, last in zip(self._parts, self._ends, strict=True)
            if begin < last and end > last - len(part)
        ]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0, np.uint8)


def parts_of(source: str | PathLike[str] | Sequence[str | PathLike[str]]) -> list[Path]:
    """The files that are one: those listed; or, of MODEL.gguf.part00, it and those that follow it in its directory.

    Raises ValueError for a file that is not there, and for a row of parts that does not begin with its first.
    """
    if not isinstance(source, str | PathLike):
        paths = [Path(one) for one in source]
        if not paths:
            raise ValueError("no file was given: name the parts of a model in their order")
    else:
        paths = [Path(source)]
        if match := _PART.fullmatch(paths[0].name):
            paths = _row_of_parts(paths[0], match[1], len(match[2]))
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
    return paths


def _row_of_parts(path: Path, name: str, digits: int) -> list[Path]:
    found = sorted(path.parent.glob(f"{name}.part{'[0-9]' * digits}"))
    first = int(found[0].name[-digits:]) if found else 0
    expected = [path.with_name(f"{name}.part{first + i:0{digits}}") for i in range(len(found))]
    if first > 1 or found != expected:
        missing = next((one.name for one in expected if one not in found), f"{name}.part{0:0{digits}}")
        raise ValueError(f"{path.parent} has parts of {name}, but not {missing}: the model is not whole")
    return found
