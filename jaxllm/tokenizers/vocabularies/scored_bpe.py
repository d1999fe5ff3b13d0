"""Byte pair encoding as SentencePiece stores it: tokens with scores, and any two symbols that make one may merge."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from operator import add
from random import Random

from jaxllm.tokenizers.stages import Span
from jaxllm.tokenizers.vocabularies.merging import merge_tokens
from jaxllm.tokenizers.vocabularies.scored_pieces import check_ids, numbered
from jaxllm.tokenizers.vocabularies.unknown_characters import UnknownCharacters
from jaxllm.tokenizers.vocabularies.watched_merging import check_dropout, merge_watched


class ScoredBPE:
    """The pair that makes the token of the highest score is merged first, and of equal ones the leftmost."""

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        unk_id: int | None = None,
        byte_fallback: bool = False,
        *,
        fuse_unk: bool = True,
        excluded: Collection[int] = (),
        user_defined: Collection[int] = (),
        unused: Collection[int] = (),
    ):
        """pieces: each token with its score; its place is its id. The other arguments are those of `Unigram`, and

        unused: tokens that are made on the way to longer ones, but at the end come apart again, or become unknown.

        Raises ValueError for tokens that are empty or there twice, for scores that are no numbers, and if a token that
        the other arguments speak of is not there.
        """
        self.pieces = tuple((piece, float(score)) for piece, score in pieces)
        self.unk_id, self.byte_fallback, self.fuse_unk = unk_id, byte_fallback, fuse_unk
        self.excluded, self.user_defined = frozenset(excluded), frozenset(user_defined)
        self.unused = frozenset(unused)
        ids = numbered(self.pieces)
        for name, named in self._settings().items():
            check_ids(name, named, len(self.pieces))
        check_ids("unk_id", {unk_id} - {None}, len(self.pieces))
        self._ids = {piece: i for piece, i in ids.items() if i not in self.excluded and i != unk_id}
        self._unknown = UnknownCharacters(ids, unk_id, byte_fallback, fuse_unk)
        # Tokens of the same score have the same rank.
        order = sorted({score for _, score in self.pieces}, reverse=True)
        ranks = {score: rank for rank, score in enumerate(order)}
        self._ranks = {piece: ranks[self.pieces[i][1]] for piece, i in self._ids.items()}
        self._unused_pieces = {self.pieces[i][0] for i in self.unused}

    def __reduce__(self):
        return _rebuild, (self.pieces, self.unk_id, self.byte_fallback, {"fuse_unk": self.fuse_unk} | self._settings())

    def _settings(self) -> dict[str, frozenset[int]]:
        return {"excluded": self.excluded, "user_defined": self.user_defined, "unused": self.unused}

    def tokens(self) -> Iterator[tuple[int, str]]:
        return enumerate(piece for piece, _ in self.pieces)

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        return tuple([i for i, _ in self.encode_spans(piece)])

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        return self._resolve(piece, self._merge_taking_apart if self.unused else self._merge)

    def sample(self, piece: str, random: Random, dropout: float) -> tuple[int, ...]:
        """The ids where each merge, when its turn comes, is left out with a probability (Provilkov et al. 2020)."""
        check_dropout(dropout)

        def merge(symbols: str) -> list[str]:
            return merge_watched(symbols, self._rank_of, add, dropped=lambda: random.random() < dropout)

        return tuple([i for i, _ in self._resolve(piece, merge)])

    def merges(self) -> list[tuple[str, str]]:
        """The pairs that make the tokens, the lowest rank first, as a tokenizer.json lists them.

        Each pair then has a rank of its own: of pairs that make the same token the one with the lower ids goes first,
        not the leftmost, so that ids can differ where such pairs overlap.
        """
        pairs = []
        for token, rank in self._ranks.items():
            for place in range(1, len(token)):
                left, right = token[:place], token[place:]
                if left in self._ids and right in self._ids:
                    pairs.append((rank, len(left), len(right), self._ids[left], left, right))
        return [(left, right) for *_, left, right in sorted(pairs)]

    def _resolve(self, piece: str, merge: Callable[[str], list[str]]) -> list[tuple[int, Span]]:
        return list(self._unknown.resolve(piece, self._segments(piece, merge)))

    def _segments(self, piece: str, merge: Callable[[str], list[str]]) -> Iterator[tuple[int, int, int | None]]:
        begin = 0
        for part in self._words.split(piece) if self._words else [piece]:
            for token in [part] if part in self._frozen else merge(part):
                i = None if token in self._unused_pieces else self._ids.get(token)
                yield begin, begin + len(token), i
                begin += len(token)

    @cached_property
    def _frozen(self) -> set[str]:
        return {self.pieces[i][0] for i in self.user_defined}

    @cached_property
    def _words(self) -> re.Pattern[str] | None:
        """Finds user-defined tokens, which no merge may cross."""
        longest_first = sorted(self._frozen, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None

    def _rank_of(self, left: str, right: str) -> int | None:
        return self._ranks.get(left + right)

    def _merge(self, symbols: str) -> list[str]:
        return merge_tokens(symbols, self._ranks)

    def _merge_taking_apart(self, symbols: str) -> list[str]:
        parts_of: dict[str, tuple[str, str]] = {}

        def remember(left: str, right: str) -> None:
            if left + right in self._unused_pieces:
                parts_of[left + right] = (left, right)

        def apart(token: str) -> Iterator[str]:
            for part in parts_of.get(token, ()):
                yield from apart(part)
            if token not in parts_of:
                yield token

        tokens = merge_watched(symbols, self._rank_of, add, considered=remember)
        return [part for token in tokens for part in apart(token)]


def _rebuild(pieces, unk_id, byte_fallback, settings) -> ScoredBPE:
    return ScoredBPE(pieces, unk_id, byte_fallback, **settings)
