"""Byte pair encoding on bytes: any text, no unknown tokens, nothing lost.

Text is cut into pieces by a pattern, and within each piece the adjacent pair of the lowest rank is merged until none
is left (Sennrich et al. 2016, on bytes as in GPT-2). While it is being merged, a piece is a string in which chr(i)
stands for the token of id i, so that finding and replacing a pair are operations on strings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice, repeat
from operator import add, itemgetter
from typing import AnyStr

from jaxllm.tokenizers.stages import Span
from jaxllm.tokenizers.vocabularies.byte_alphabet import BYTE_ORDER, to_text
from jaxllm.tokenizers.vocabularies.merging import merge_pairs, merge_tokens


class ByteLevelBPE:
    """A vocabulary of byte strings, whose tokens files write in the byte alphabet. Its pieces are plain text."""

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        *,
        ignore_merges: bool = False,
    ):
        """vocabulary: the id of each token. merges: pairs of tokens, the lowest rank first. ignore_merges: a whole
        piece that is a token becomes it at once.

        Raises ValueError if a token that a merge names is not in the vocabulary, if a merge occurs twice, or if two
        tokens have one id.
        """
        self.vocabulary, self.ignore_merges = dict(vocabulary), ignore_merges
        self._tokens = _check(self.vocabulary)
        self._given_merges: tuple[tuple[bytes, bytes], ...] | None = tuple(merges)
        # A symbol is chr(id). str.translate takes a table from code points, and Latin-1 makes one of each byte.
        self._symbols = {token[0]: chr(i) for token, i in self.vocabulary.items() if len(token) == 1}
        self._ranks, self._merged = _tabulate(self._given_merges, self.vocabulary)

    @classmethod
    def from_ranks(cls, ranks: Mapping[bytes, int]) -> ByteLevelBPE:
        """A vocabulary as tiktoken has it: any two adjacent tokens that together are a token may merge, that of the
        lowest rank first, and a piece that is a token is it at once. Ranks are ids."""
        made = cls.__new__(cls)
        made.vocabulary, made.ignore_merges, made._given_merges = dict(ranks), True, None
        made._tokens = _check(made.vocabulary)
        # A symbol is the token itself.
        made._ranks, made._merged = made.vocabulary, made._tokens
        return made

    @classmethod
    def from_merges(cls, merges: Sequence[tuple[bytes, bytes]]) -> ByteLevelBPE:
        """Numbers the tokens: the bytes in BYTE_ORDER, then one for each merge that makes a new one."""
        tokens = dict.fromkeys(chain((bytes([byte]) for byte in BYTE_ORDER), (left + right for left, right in merges)))
        return cls({token: i for i, token in enumerate(tokens)}, merges)

    def __getstate__(self) -> dict[str, object]:
        # A copy in another process has the tables, whose making takes longer, but NumPy only when there is much to do.
        return {name: value for name, value in vars(self).items() if name != "_merger"}

    @property
    def is_by_ranks(self) -> bool:
        """Whether it was made from ranks of tokens and not from a list of merges."""
        return self._given_merges is None

    @cached_property
    def merges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The pairs that are merged, the lowest rank first. Of a vocabulary by ranks: the last merge of each token.

        Raises ValueError if a token's bytes don't come down to two tokens of lower rank.
        """
        return _merges_of_ranks(self.vocabulary) if self._given_merges is None else self._given_merges

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """The bytes that are no tokens: a text that has one of them can't be encoded. Usually there are none."""
        return frozenset(byte for byte in range(256) if bytes([byte]) not in self.vocabulary)

    def tokens(self) -> Iterator[tuple[int, str]]:
        return ((i, to_text(token)) for token, i in self.vocabulary.items())

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        return self.encode_bytes(piece.encode("utf-8"))

    def encode_bytes(self, piece: bytes) -> tuple[int, ...]:
        """The ids of any bytes, as one piece. Raises ValueError for a byte that is no token."""
        if self.ignore_merges and (whole := self.vocabulary.get(piece)) is not None:
            return (whole,)
        if self.missing_bytes and not self.missing_bytes.isdisjoint(piece):
            missing = next(byte for byte in piece if byte in self.missing_bytes)
            raise ValueError(
                f"the byte 0x{missing:02x} of {piece!r} is no token of this vocabulary, which lacks "
                f"{len(self.missing_bytes)} of the 256 bytes; train or load one that has all of them"
            )
        if self._given_merges is None:
            parts = list(map(_SINGLE_BYTES.__getitem__, piece))
            merge = _merge_few if len(parts) <= _FEW else _merge_many_tokens
            return tuple(map(self.vocabulary.__getitem__, merge(parts, self._ranks, self._merged)))
        symbols = piece.decode("latin-1").translate(self._symbols)
        if len(symbols) <= _FEW:
            return tuple(map(ord, _merge_few([*symbols], self._ranks, self._merged)))
        return tuple(map(ord, merge_pairs(symbols, self._ranks, self._merged)))

    def encode_pieces(self, pieces: Sequence[str]) -> list[tuple[int, ...]]:
        """What encode_piece says of each piece, quicker where there are many. Raises what it raises."""
        found = dict.fromkeys(pieces)
        if self._given_merges is not None and not self.missing_bytes and len(pieces) >= _MANY:
            whole = self.vocabulary if self.ignore_merges else ()
            data = {piece: data for piece in found if 0 < len(data := piece.encode()) <= _SHORT and data not in whole}
            together = sorted(data, key=lambda piece: len(data[piece]))
            if together:
                found |= zip(together, self._merger(list(map(data.__getitem__, together))), strict=True)
        return [self.encode_piece(piece) if (ids := found[piece]) is None else ids for piece in pieces]

    @cached_property
    def _merger(self) -> Callable[[Sequence[bytes]], Iterator[tuple[int, ...]]]:
        from jaxllm.tokenizers.vocabularies.merging_arrays import PairMerger

        return PairMerger(list(map(self.vocabulary.__getitem__, _SINGLE_BYTES)), self._ranks, self._merged)

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        # The character that each byte belongs to.
        owner = [i for i, character in enumerate(piece) for _ in character.encode("utf-8")]
        spans, begin = [], 0
        for i in self.encode_piece(piece):
            end = begin + len(self._tokens[i])
            spans.append((i, (owner[begin], owner[end - 1] + 1)))
            begin = end
        return spans


def _check(vocabulary: Mapping[bytes, int]) -> dict[int, bytes]:
    """The token of each id. Raises ValueError for ids that are impossible or occur twice, and for an empty token."""
    tokens: dict[int, bytes] = {}
    for token, i in vocabulary.items():
        if not token:
            raise ValueError(f"the token of id {i} is empty; a token must have at least one byte")
        if not 0 <= i <= sys.maxunicode:
            raise ValueError(f"the id of {token!r} is {i}; ids must be 0 .. {sys.maxunicode:,}")
        if tokens.setdefault(i, token) != token:
            raise ValueError(f"the tokens {tokens[i]!r} and {token!r} have the same id {i}")
    return tokens


# Up to so many symbols, looking at all pairs for each merge is quicker than keeping them in a heap.
_FEW = 100
# From so many pieces on, merging them together is quicker than one by one, unless they are long: a round for all of
# them makes one merge of each.
_MANY = 100
_SHORT = 32
_NO_RANK = sys.maxsize
_SINGLE_BYTES = [bytes([byte]) for byte in range(256)]


def _merge_few(
    parts: list[AnyStr], ranks: Mapping[AnyStr, int], merged: Mapping[int, AnyStr], limit: int = _NO_RANK
) -> list[AnyStr]:
    """Merges the adjacent parts of the lowest rank, and of those the leftmost, until none has a rank below the limit.

    ranks: of two parts, written together. merged: what the two of each rank become.
    """
    rank_of = ranks.get
    found = list(map(rank_of, map(add, parts, islice(parts, 1, None)), repeat(_NO_RANK)))
    while found and (lowest := min(found)) < limit:
        i = found.index(lowest)
        parts[i] = symbol = merged[lowest]
        del parts[i + 1], found[i]
        if i < len(found):
            found[i] = rank_of(symbol + parts[i + 1], _NO_RANK)
        if i:
            found[i - 1] = rank_of(parts[i - 1] + symbol, _NO_RANK)
    return parts


def _merge_many_tokens(parts: list[bytes], ranks: Mapping[bytes, int], _: object) -> list[bytes]:
    return merge_tokens(parts, ranks)


def _merges_of_ranks(ranks: Mapping[bytes, int]) -> tuple[tuple[bytes, bytes], ...]:
    """For each token of several bytes, in the order of ranks, the two that its bytes merge to by lower ranks."""
    tokens = {rank: token for token, rank in sorted(ranks.items(), key=itemgetter(1))}
    merges = []
    for rank, token in tokens.items():
        if len(token) == 1:
            continue
        parts = _merge_few(list(map(_SINGLE_BYTES.__getitem__, token)), ranks, tokens, limit=rank)
        if len(parts) != 2:
            raise ValueError(
                f"the token {token!r} of rank {rank} is made of {len(parts)} tokens of lower rank, so a list of "
                "merges can't express it"
            )
        merges.append((parts[0], parts[1]))
    return tuple(merges)


def _tabulate(
    merges: Sequence[tuple[bytes, bytes]], vocabulary: Mapping[bytes, int]
) -> tuple[dict[str, int], list[str]]:
    """The rank of each pair of symbols, and the symbol that the merge of each rank makes."""
    ranks, merged = {}, []
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise ValueError(f"merge {rank}, of {left!r} and {right!r}: {token!r} is not in the vocabulary")
        pair = chr(vocabulary[left]) + chr(vocabulary[right])
        if pair in ranks:
            raise ValueError(f"merge {rank}, of {left!r} and {right!r}, is there already, as merge {ranks[pair]}")
        ranks[pair] = rank
        merged.append(chr(vocabulary[left + right]))
    return ranks, merged
