"""The unigram language model: each token has a probability, and a piece becomes its most probable row of tokens.

Kudo 2018, "Subword Regularization". Scores are natural logarithms of probabilities. The best row is found by Viterbi's
algorithm over the characters of the piece; the lattice of all rows gives the next best ones, and draws at random.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from random import Random

from jaxllm.tokenizers.stages import Span
from jaxllm.tokenizers.vocabularies.lattice import Lattice, Row
from jaxllm.tokenizers.vocabularies.scored_pieces import check_ids, numbered
from jaxllm.tokenizers.vocabularies.unknown_characters import UnknownCharacters

# What a character without a token costs beyond the least probable token, as in SentencePiece.
_UNKNOWN_PENALTY = 10.0
# Begins of tokens are kept, so memory grows with the square of their lengths; the largest real vocabularies need 2^24.
_MOST_CHARACTERS = 1 << 28


class Unigram:
    """A vocabulary of tokens with scores; the first arguments are the fields of Hugging Face's "Unigram"."""

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        unk_id: int | None = None,
        byte_fallback: bool = False,
        *,
        fuse_unk: bool = True,
        excluded: Collection[int] = (),
        user_defined: Collection[int] = (),
        single_precision: bool = False,
    ):
        """pieces: each token with its score; its place is its id.

        unk_id: of the token for characters that no other has. byte_fallback: these become the tokens of their bytes,
        "<0x00>" to "<0xFF>". fuse_unk: adjacent unknown characters become one token. excluded: tokens that no text
        becomes, such as control tokens. user_defined: tokens that are preferred to almost all others.
        single_precision: scores are added up with 24 bits, as SentencePiece does, which decides between rows that are
        as good.

        Raises ValueError for tokens that are empty, there twice or beyond measure, for scores that are no numbers, and
        if a token that the other arguments speak of is not there.
        """
        self.pieces = tuple((piece, float(score)) for piece, score in pieces)
        self.unk_id, self.byte_fallback, self.fuse_unk = unk_id, byte_fallback, fuse_unk
        self.excluded, self.user_defined = frozenset(excluded), frozenset(user_defined)
        self.single_precision = single_precision
        self._ids = numbered(self.pieces)
        check_ids("unk_id", {unk_id} - {None}, len(self.pieces))
        check_ids("excluded", self.excluded, len(self.pieces))
        check_ids("user_defined", self.user_defined, len(self.pieces))
        self._unknown = UnknownCharacters(self._ids, unk_id, byte_fallback, fuse_unk)
        self._round = (lambda number: array("f", [number])[0]) if single_precision else float
        self._scores = self._lookup()
        self._known = {piece for piece in self._scores if len(piece) == 1 and self._scores[piece] > float("-inf")}

    def __reduce__(self):
        return _rebuild, (
            type(self),
            self.pieces,
            self.unk_id,
            self.byte_fallback,
            {
                "fuse_unk": self.fuse_unk,
                "excluded": self.excluded,
                "user_defined": self.user_defined,
                "single_precision": self.single_precision,
            },
        )

    def tokens(self) -> Iterator[tuple[int, str]]:
        return enumerate(piece for piece, _ in self.pieces)

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        return self._ids_of(piece, self.segment(piece))

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        return self._resolve(piece, self.segment(piece))

    def segment(self, piece: str, before: float = 0.0) -> Row:
        """Begin and end of the tokens of the most probable row; an unknown character stands alone.

        before: the sum of the scores of what comes before the piece, which matters in single precision only. Of rows
        that are equally probable, the one is taken whose last token is the longest, then the one before it.
        """
        size, score_of, known = len(piece), self._scores.get, self._known
        unknown = self._unknown_score
        empty = float("-inf")
        best = array("f", [empty]) * (size + 1) if self.single_precision else [empty] * (size + 1)
        origin = [0] * (size + 1)
        best[0] = before
        for begin in range(size):
            here = best[begin]
            if piece[begin] not in known:
                total, highest = here + unknown, best[begin + 1]
                if total > highest:
                    best[begin + 1] = total
                    if best[begin + 1] > highest:
                        origin[begin + 1] = begin
            for end in range(begin + 1, size + 1):
                score = score_of(piece[begin:end])
                if score is None:
                    break
                total, highest = here + score, best[end]
                if total > highest:
                    best[end] = total
                    if best[end] > highest:  # it may be no more after rounding
                        origin[end] = begin
        ends = [size]
        while ends[-1]:
            ends.append(origin[ends[-1]])
        return list(pairwise(reversed(ends)))

    def lattice(self, piece: str) -> Lattice:
        """All rows of tokens that make the piece, with their scores."""
        edges: list[list[tuple[int, float]]] = []
        for begin, character in enumerate(piece):
            edges.append([(begin + 1, self._unknown_score)] if character not in self._known else [])
            for end in range(begin + 1, len(piece) + 1):
                score = self._scores.get(piece[begin:end])
                if score is None:
                    break
                if score > float("-inf"):
                    edges[-1].append((end, score))
        return Lattice(edges)

    def n_best(self, piece: str, n: int) -> list[tuple[tuple[int, ...], float]]:
        """The n best rows of tokens, or as many as there are, each with the sum of its scores; the best comes first."""
        return [(self._ids_of(piece, row), score) for row, score in self.lattice(piece).n_best(n)]

    def sample(self, piece: str, random: Random, alpha: float = 1.0) -> tuple[int, ...]:
        """A row drawn from all, with a probability proportional to that of its tokens to the power of alpha.

        alpha: 0 draws any row as likely as any other, 1 as the model says, large values almost always the best.
        """
        return self._ids_of(piece, self.lattice(piece).sample(random, alpha))

    def sample_n_best(self, piece: str, n: int, random: Random, alpha: float = 1.0) -> tuple[int, ...]:
        """A row drawn likewise from the n best."""
        return self._ids_of(piece, self.lattice(piece).sample_n_best(n, random, alpha))

    def log_probability(self, piece: str) -> float:
        """The logarithm of the sum of all rows' probabilities, which is that of the piece."""
        return self.lattice(piece).log_total()

    def _ids_of(self, piece: str, row: Row) -> tuple[int, ...]:
        return tuple([i for i, _ in self._resolve(piece, row)])

    def _resolve(self, piece: str, row: Row) -> list[tuple[int, Span]]:
        # An unknown character may be the text of an excluded token, whose id it must not get.
        ids, known, unk_id = self._ids, self._known, self.unk_id
        found = (
            (begin, end, ids[piece[begin:end]] if end - begin > 1 or piece[begin] in known else None)
            for begin, end in row
        )
        return list(self._unknown.resolve(piece, ((begin, end, None if i == unk_id else i) for begin, end, i in found)))

    def _lookup(self) -> dict[str, float]:
        """The score of each token that text may become, and minus infinity for what only begins one."""
        if sum(len(piece) ** 2 for piece, _ in self.pieces) // 2 > _MOST_CHARACTERS:
            longest = max((piece for piece, _ in self.pieces), key=len)
            raise ValueError(
                f"the pieces are too long to look up, the longest has {len(longest):,} characters: {longest[:40]!r}..."
            )
        normal = [
            score for i, (_, score) in enumerate(self.pieces) if i not in self.excluded and i not in self.user_defined
        ]
        self._unknown_score = self._round(self._round(min(normal, default=0.0)) - _UNKNOWN_PENALTY)
        scores: dict[str, float] = {}
        for i, (piece, score) in enumerate(self.pieces):
            if i in self.excluded:
                continue
            # More than certain, and the longer the more: measured at version 0.2.3 of the sentencepiece library.
            bonus = 0.1 * (len(piece.encode("utf-8", "surrogatepass")) - 1)
            score = self._round(bonus if i in self.user_defined else score)
            scores[piece] = score
            for end in range(1, len(piece)):
                scores.setdefault(piece[:end], float("-inf"))
        return scores


def _rebuild(kind: type[Unigram], pieces, unk_id, byte_fallback, settings) -> Unigram:
    return kind(pieces, unk_id, byte_fallback, **settings)
