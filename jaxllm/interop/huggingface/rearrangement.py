"""One declaration of how a tensor of theirs becomes one of ours, used in both directions.

A pattern names the axes of both sides, as in einops: `"(H K) D -> D H K"` splits the first axis of a matrix stored
[out, in] into heads and puts the input first. Sizes follow from our shape. Two things are added:

- A *part* `p=(start, stop, total)` says that theirs has `total` along `p`, of which ours is what lies between `start`
  and `stop`: `"D (p H K) -> D H K"` with `p=(0, 1, 3)` takes the queries out of fused queries, keys and values. An axis
  that ours does not have must be cut to one.
- A part that is split further is written `p:(R V)`: `"(G p:(R V)) D -> D (G R) V"`.

`1` is an axis of size one that only one side has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

Part = tuple[int, int, int]


@dataclass(frozen=True)
class Pattern:
    """The axes of both sides. Theirs: dimensions of items, each a name and what it is split into (itself, mostly)."""

    theirs: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]
    ours: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Rearrangement:
    """A pattern with all sizes known."""

    theirs_shape: tuple[int, ...]
    ours_shape: tuple[int, ...]
    _items: tuple[int, ...]  # their shape with all dimensions split into items
    _cuts: tuple[slice, ...]  # what is ours of each item
    _atoms: tuple[int, ...]  # the shape of that, with all items split
    _order: tuple[int, ...]  # the atoms as they stand in ours

    def to_ours(self, theirs: np.ndarray) -> np.ndarray:
        """Our tensor; a view of theirs, unless axes are merged that do not lie side by side."""
        atoms = theirs.reshape(self._items)[self._cuts].reshape(self._atoms)
        return atoms.transpose(self._order).reshape(self.ours_shape)

    def put(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Write our tensor where it belongs in theirs."""
        atoms = ours.reshape([self._atoms[axis] for axis in self._order]).transpose(np.argsort(self._order))
        region = theirs.reshape(self._items)[self._cuts]
        region[...] = atoms.reshape(region.shape)


@cache
def parse(pattern: str) -> Pattern:
    """Raises ValueError for a pattern that is none."""
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise ValueError(f"the pattern {pattern!r} has no '->'")
    theirs = tuple(_dimensions(left, pattern))
    ours = tuple(tuple(name for name, _ in dimension) for dimension in _dimensions(right, pattern))
    return Pattern(theirs, ours)


def _dimensions(side: str, pattern: str):
    for group, single in re.findall(r"\(((?:[^()]|\([^()]*\))*)\)|([^\s()]+)", side):
        text = group or single
        items = re.findall(r"(\w+)(?::\(([^()]*)\))?", text)
        if re.sub(r"\w+(?::\([^()]*\))?|\s", "", text):
            raise ValueError(f"the pattern {pattern!r} can't be read at {text!r}")
        yield tuple((name, tuple(split.split()) or (name,)) for name, split in items)


def arrange(pattern: str, ours_shape: tuple[int, ...], parts: Mapping[str, Part] | None = None) -> Rearrangement:
    """The rearrangement for a tensor of ours of this shape; an empty pattern means that both sides are the same.

    Raises ValueError for a pattern that does not fit.
    """
    parts = parts or {}
    if not pattern:
        names = " ".join(f"a{axis}" for axis in range(len(ours_shape)))
        pattern = f"{names} -> {names}"
    parsed = parse(pattern)
    items = [item for dimension in parsed.theirs for item in dimension]
    left, right = [a for _, atoms in items for a in atoms], [a for atoms in parsed.ours for a in atoms]
    try:
        sizes = _solved(_equations(parsed, items, ours_shape, parts))
        _check_axes(left, right, sizes)
    except ValueError as error:
        raise ValueError(f"the pattern {pattern!r} does not fit our shape {ours_shape}: {error}") from error
    widths = [parts[name][2] if name in parts else math.prod(sizes[a] for a in atoms) for name, atoms in items]
    by_dimension = iter(widths)
    order = [left.index(atom) for atom in right if atom != "1"]
    return Rearrangement(
        theirs_shape=tuple(math.prod(next(by_dimension) for _ in dimension) for dimension in parsed.theirs),
        ours_shape=tuple(ours_shape),
        _items=tuple(widths),
        _cuts=tuple(slice(*parts[name][:2]) if name in parts else slice(None) for name, _ in items),
        _atoms=tuple(sizes[atom] for atom in left),
        _order=tuple(order + [axis for axis in range(len(left)) if axis not in order]),
    )


def _equations(
    parsed: Pattern, items: list, ours_shape: tuple[int, ...], parts: Mapping[str, Part]
) -> list[tuple[tuple[str, ...], int]]:
    """Axes, and what their sizes multiply to."""
    if len(parsed.ours) != len(ours_shape):
        raise ValueError(f"it has {len(parsed.ours)} axes")
    equations = list(zip(parsed.ours, ours_shape, strict=True))
    for name, atoms in items:
        if name in parts:
            start, stop, total = parts[name]
            if not 0 <= start < stop <= total:
                raise ValueError(f"the part {name}={parts[name]} is empty or beyond the end")
            equations.append((atoms, stop - start))
    return equations


def _solved(equations: list[tuple[tuple[str, ...], int]]) -> dict[str, int]:
    sizes = {"1": 1}
    while unsolved := [(atoms, size) for atoms, size in equations if any(atom not in sizes for atom in atoms)]:
        simple = [(atoms, size) for atoms, size in unsolved if sum(atom not in sizes for atom in atoms) == 1]
        if not simple:
            unknown = {atom for atoms, _ in unsolved for atom in atoms} - sizes.keys()
            raise ValueError(f"the sizes of {sorted(unknown)} are open")
        for atoms, size in simple:
            if all(atom in sizes for atom in atoms):
                continue
            known = math.prod(sizes.get(atom, 1) for atom in atoms)
            if not known or size % known:
                raise ValueError(f"{size} is no multiple of {known}")
            for atom in atoms:
                sizes.setdefault(atom, size // known)
    if wrong := next((atoms for atoms, size in equations if math.prod(sizes[a] for a in atoms) != size), None):
        raise ValueError(f"axis ({' '.join(wrong)})")
    return sizes


def _check_axes(left: list[str], right: list[str], sizes: dict[str, int]) -> None:
    if foreign := [atom for atom in left if atom not in sizes]:
        raise ValueError(f"theirs has axes {foreign} of unknown size")
    if foreign := [atom for atom in left if atom not in right and sizes[atom] != 1]:
        raise ValueError(f"theirs has {foreign}, which ours has not")
    if foreign := [atom for atom in right if atom not in left and atom != "1"]:
        raise ValueError(f"ours has {foreign}, which theirs has not")
