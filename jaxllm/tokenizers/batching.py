"""Rows of ids as one array: cut to a length, and filled up to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Side = Literal["left", "right"]


def truncate(ids: Sequence[int], length: int, side: Side = "right") -> list[int]:
    """At most `length` ids; what is too much is cut off on that side. Raises ValueError for a negative length."""
    if length < 0:
        raise ValueError(f"ids can't be cut to a length of {length}")
    if len(ids) <= length:
        return list(ids)
    return list(ids[:length]) if side == "right" else list(ids[len(ids) - length :])


def pad(
    rows: Sequence[Sequence[int]],
    padding: int,
    *,
    length: int | None = None,
    multiple: int = 1,
    side: Side = "right",
) -> tuple[np.ndarray, np.ndarray]:
    """The rows as an array [B, T] of int32, and a mask [B, T] that is True where an id is one of a row.

    T is `length`, or that of the longest row, rounded up to a multiple: few lengths mean few compilations. Decoding
    goes on at the right end, so prompts of different lengths are filled up on the left. Raises ValueError for a row
    that is longer than `length`.
    """
    longest = max(map(len, rows), default=0)
    if length is not None and longest > length:
        raise ValueError(f"a row of {longest} ids is longer than {length}: truncate it first")
    width = -(-(longest if length is None else length) // multiple) * multiple
    ids = np.full((len(rows), width), padding, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, True
    return ids, mask
