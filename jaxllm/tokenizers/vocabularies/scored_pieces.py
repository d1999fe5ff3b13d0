"""What vocabularies of tokens with scores have in common: a token's id is its place, and files may be damaged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite


def numbered(pieces: Sequence[tuple[str, float]]) -> dict[str, int]:
    """The id of each token. Raises ValueError for one that is empty or there twice, or whose score is no number."""
    ids: dict[str, int] = {}
    for i, (piece, score) in enumerate(pieces):
        if not piece:
            raise ValueError(f"the piece of id {i} is empty")
        if ids.setdefault(piece, i) != i:
            raise ValueError(f"the piece {piece!r} is there twice, with the ids {ids[piece]} and {i}")
        if not isfinite(score):
            raise ValueError(f"the score of the piece {piece!r} must be a finite number, got {score}")
    return ids


def check_ids(argument: str, ids: Collection[int | None], size: int) -> None:
    """Raises ValueError if an argument names an id that no token has."""
    for i in ids:
        if not 0 <= i < size:
            raise ValueError(f"{argument} names the id {i}, but there are {size} pieces, with ids from 0 on")
