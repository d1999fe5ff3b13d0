"""Ids of the pieces seen so far: ordinary text repeats itself so much that this decides the speed of encoding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from threading import local

from jaxllm.tokenizers.stages import Vocabulary

_MOST = 1 << 18
"""Pieces that are remembered; then it begins anew."""
_LONGEST = 64
"""Characters of a piece that is remembered; longer ones hardly ever come again."""


class PieceCache(dict[str, Sequence[int]]):
    """The ids of each piece; those of a piece that is not here are found out when they are asked for."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self._encode = vocabulary.encode_piece
        self._encode_together = getattr(vocabulary, "encode_pieces", lambda pieces: list(map(self._encode, pieces)))
        self._of_thread = local()

    def __missing__(self, piece: str) -> Sequence[int]:
        waiting = getattr(self._of_thread, "waiting", None)
        if waiting is not None:
            return waiting[piece]
        ids = self._encode(piece)
        self._remember([piece], [ids])
        return ids

    def ids_of_texts(self, texts: Iterable[Iterable[str]]) -> list[list[int]]:
        """The ids of texts in pieces. The pieces that are new are encoded together, which may be much quicker."""
        # Until then, each of them has an empty list, which is filled in the end.
        waiting: defaultdict[str, list[int]] = defaultdict(list)
        self._of_thread.waiting = waiting
        try:
            found = [list(map(self.__getitem__, pieces)) for pieces in texts]
        finally:
            self._of_thread.waiting = None
        if waiting:
            pieces = list(waiting)
            ids_of_pieces = self._encode_together(pieces)
            for empty, ids in zip(waiting.values(), ids_of_pieces, strict=True):
                empty.extend(ids)
            self._remember(pieces, ids_of_pieces)
        return [list(chain.from_iterable(ids)) for ids in found]

    def _remember(self, pieces: Sequence[str], ids_of_pieces: Sequence[Sequence[int]]) -> None:
        kept = [one for one in zip(pieces, ids_of_pieces, strict=True) if len(one[0]) <= _LONGEST]
        if len(self) + len(kept) > _MOST:
            self.clear()
        self.update(kept)
