"""Learning a unigram vocabulary: start with too many tokens, and drop the least useful ones step by step.

Kudo 2018, "Subword Regularization", section 3.2. Probabilities are those of maximum likelihood, found by EM. Unlike
SentencePiece's trainer, a substring counts as often as its words occur, all ways to cut a word are looked at when a
token's worth is found, and EM goes on after the last tokens were dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxllm.tokenizers.training.character_coverage import covered_characters, cut_at_others
from jaxllm.tokenizers.training.frequent_substrings import Substrings, Words, frequent_substrings, lay_out
from jaxllm.tokenizers.training.token_lattices import Edges, TokenLattices
from jaxllm.tokenizers.vocabularies.byte_tokens import BYTE_TOKENS
from jaxllm.tokenizers.vocabularies.unigram import Unigram

UNKNOWN = "<unk>"

# Tokens that are expected less often than this in all the text are dropped, as in SentencePiece.
_LEAST_EXPECTED = 0.5
# A character that EM has no more use for keeps a token, so that every word stays possible.
_LEAST_COUNT = 1e-6
# Steps of EM when no more tokens are dropped; from then on they gain less and less.
_LAST_STEPS = 8
# Bounds the memory that finding their worth takes.
_TOKENS_AT_ONCE = 1 << 16

Progress = Callable[[int, float], None]
"""Is told the number of tokens and the log likelihood of all words before each step of EM."""


def learn_unigram(
    pieces: Mapping[str, int],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (UNKNOWN, "<s>", "</s>"),
    byte_fallback: bool = False,
    character_coverage: float = 0.9995,
    max_piece_length: int = 16,
    seed_size: int = 1_000_000,
    shrinking_factor: float = 0.75,
    em_steps: int = 2,
    progress: Progress = lambda tokens, likelihood: None,
) -> Unigram:
    """A vocabulary of `vocab_size` tokens for pieces that were counted: the special ones, bytes, then the learned ones.

    special_tokens: the first is for what is unknown; no text becomes the others. byte_fallback: adds tokens for the 256
    bytes. character_coverage: so much of the text consists of the characters that get a token. seed_size: the tokens to
    start with, at most. shrinking_factor: how many of them stay at each step. em_steps: steps of EM between two.

    The result depends on the counts only, not on their order. Raises ValueError if the characters need more tokens than
    asked for, if the text does not support so many, and if there is none.
    """
    if not special_tokens:
        raise ValueError("special_tokens must name at least the token for what is unknown")
    if not 0 < shrinking_factor < 1 or not 0 < character_coverage <= 1:
        raise ValueError(
            "shrinking_factor must lie between 0 and 1, and character_coverage above 0 and up to 1, got "
            f"{shrinking_factor} and {character_coverage}"
        )
    fixed = [*special_tokens, *(BYTE_TOKENS if byte_fallback else ())]
    characters = covered_characters(pieces, character_coverage)
    if vocab_size < len(fixed) + len(characters):
        raise ValueError(
            f"vocab_size must be at least {len(fixed) + len(characters):,}, for {len(characters):,} characters and "
            f"{len(fixed)} special tokens and bytes, got {vocab_size:,}; lower character_coverage, or ask for more"
        )
    if not characters:
        raise ValueError("there is no text to learn from: all pieces are empty")
    words = lay_out(cut_at_others(pieces, characters))
    seed, lattices = _seed(words, max_piece_length, seed_size, fixed)
    tokens, scores = _learn(seed, lattices, vocab_size - len(fixed), shrinking_factor, em_steps, progress)
    if len(tokens) < vocab_size - len(fixed):
        raise ValueError(
            f"the text supports {len(tokens):,} tokens, so vocab_size can be at most {len(fixed) + len(tokens):,}, but "
            f"{vocab_size:,} was asked for; lower it, or give more text"
        )
    learned = sorted(zip(tokens, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return Unigram(
        [(token, 0.0) for token in fixed] + learned, 0, byte_fallback, excluded=range(len(fixed)), single_precision=True
    )


def log_likelihood(vocabulary: Unigram, pieces: Mapping[str, int]) -> float:
    """The sum of the logarithms of the pieces' probabilities, over all ways to cut them."""
    return sum(count * vocabulary.log_probability(piece) for piece, count in sorted(pieces.items()))


@dataclass(frozen=True)
class _Tokens:
    """Candidates, each by a place where it is in the words, and how often it is expected."""

    words: Words
    places: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray

    def only(self, chosen: np.ndarray, counts: np.ndarray) -> _Tokens:
        return _Tokens(self.words, self.places[chosen], self.lengths[chosen], counts[chosen])

    def texts(self) -> list[str]:
        return [self.words.text(*where) for where in zip(self.places.tolist(), self.lengths.tolist(), strict=True)]

    def scores(self) -> np.ndarray:
        counts = np.maximum(self.counts, _LEAST_COUNT)
        return np.log(counts) - np.log(counts.sum())


def _seed(words: Words, longest: int, size: int, taken: Sequence[str]) -> tuple[_Tokens, TokenLattices]:
    """All characters, and the substrings that cover the most text; none is a token already."""
    inside = np.nonzero(words.codes)[0]
    _, firsts, which = np.unique(words.codes[inside], return_index=True, return_inverse=True)
    characters = np.bincount(which, words.counts[words.word[inside]], len(firsts))
    parts = [Substrings(1, inside[firsts], characters, inside, which), *frequent_substrings(words, longest)]
    lengths = np.concatenate([np.full(len(part.places), part.length) for part in parts])
    places, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("places", "counts"))
    worth = np.where(lengths > 1, counts * lengths, np.inf)
    for i in np.nonzero(np.isin(words.codes[places], [ord(name[0]) + 1 for name in taken]) & (lengths > 1))[0]:
        if words.text(places[i], lengths[i]) in taken:
            worth[i] = -1
    number = _numbers_of_the_best(worth, max(len(firsts), min(size, np.count_nonzero(worth >= 0))))
    starts = np.cumsum([0, *(len(part.places) for part in parts)])
    begin = np.concatenate([part.all_places for part in parts])
    length = np.concatenate([np.full(len(part.all_places), part.length) for part in parts])
    token = number[np.concatenate([part.which + start for part, start in zip(parts, starts, strict=False)])]
    edges = Edges(begin, begin + length, token).where(token >= 0)
    word_lengths = words.ends - words.begins
    depths = word_lengths[words.word] - words.left
    chosen = number >= 0
    tokens = _Tokens(words, places[chosen], lengths[chosen], counts[chosen])
    return tokens, TokenLattices(edges, depths, words.begins, words.ends, words.counts)


def _learn(
    tokens: _Tokens, lattices: TokenLattices, size: int, shrinking: float, em_steps: int, progress: Progress
) -> tuple[list[str], np.ndarray]:
    while True:
        last = len(tokens.counts) <= size
        for _ in range(_LAST_STEPS if last else em_steps):
            counts, likelihood = lattices.expect(tokens.scores())
            progress(len(counts), likelihood)
            tokens = replace(tokens, counts=counts)
        if last:
            return tokens.texts(), tokens.scores()
        needed = np.count_nonzero((tokens.counts >= _LEAST_EXPECTED) | (tokens.lengths == 1))
        smaller = max(size, min(int(shrinking * len(tokens.counts)), needed))
        number = _numbers_of_the_best(_worth(tokens, lattices), smaller)
        lattices.keep(number)
        tokens = tokens.only(number >= 0, tokens.counts)


def _worth(tokens: _Tokens, lattices: TokenLattices) -> np.ndarray:
    """What the log likelihood would lose, about, without each token: its text would then be cut in other ways."""
    scores = tokens.scores()
    worth = np.full(len(scores), np.inf)
    several = np.nonzero(tokens.lengths > 1)[0]
    for begin in range(0, len(several), _TOKENS_AT_ONCE):
        these = several[begin : begin + _TOKENS_AT_ONCE]
        others = _own_lattices(tokens.places[these], tokens.lengths[these], lattices.edges).totals(scores)
        worth[these] = tokens.counts[these] * (scores[these] - others)
    return worth


def _own_lattices(places: np.ndarray, lengths: np.ndarray, edges: Edges) -> TokenLattices:
    """The lattices of the tokens' own texts, without the edges that are these tokens."""
    groups = np.concatenate([[0], np.nonzero(np.diff(edges.begin))[0] + 1])
    first, degree = np.zeros((2, int(edges.end.max()) + 1), np.int64)
    first[edges.begin[groups]] = groups
    degree[edges.begin[groups]] = np.diff(groups, append=len(edges.begin))
    text, depth = _ranges(lengths)
    node = places[text] + depth
    step, nth = _ranges(degree[node])
    edge = first[node[step]] + nth
    end = depth[step] + edges.end[edge] - edges.begin[edge]
    inside = (end <= lengths[text[step]]) & (end - depth[step] < lengths[text[step]])
    edge, step, end = edge[inside], step[inside], end[inside]
    offsets = np.cumsum(lengths + 1) - lengths - 1
    own = Edges(offsets[text[step]] + depth[step], offsets[text[step]] + end, edges.token[edge])
    return TokenLattices(own, _ranges(lengths + 1)[1], offsets, offsets + lengths, np.ones(len(places)))


def _ranges(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ranges 0 .. size - 1, one after the other: which range each number is of, and the number."""
    which = np.repeat(np.arange(len(sizes)), sizes)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _numbers_of_the_best(worth: np.ndarray, size: int) -> np.ndarray:
    """New numbers, in the old order, for so many of the highest; -1 for the others. Of equal ones the first stay."""
    chosen = np.zeros(len(worth), bool)
    chosen[np.argsort(-worth, kind="stable")[:size]] = True
    return np.where(chosen, np.cumsum(chosen) - 1, -1)
