"""Looking into a tokenizer: how a word comes to its tokens, and which tokens are of no use.

Tokens may be wasted in three ways: a corpus never uses them, no text can be encoded as them, or a model has hardly
seen them in training, which leaves a mark on its embeddings (Land and Bartolo 2024, arXiv:2405.05417).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.tokenizers.vocabularies.byte_alphabet import to_text

if TYPE_CHECKING:
    import numpy as np

    from jaxllm.tokenizers.pipeline import PipelineTokenizer

# What may stand before a token: the begin of a text, a word, a number, punctuation, a space, a line's end.
_BEFORE = ("", "a", "1", ".", " ", "\n", "a ")


@dataclass(frozen=True)
class MergeStep:
    """One merge of a piece, and the piece after it. Tokens are written as in the vocabulary's files."""

    rank: int
    left: str
    right: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class PieceTrace:
    """How a piece of a text comes to its tokens."""

    piece: str
    symbols: tuple[str, ...]
    """what it begins as: its bytes or characters"""
    steps: tuple[MergeStep, ...]
    whole: bool
    """whether it is a token and becomes it without any merge"""

    @property
    def tokens(self) -> tuple[str, ...]:
        """What it ends as."""
        return self.steps[-1].tokens if self.steps else self.symbols


def merge_trace(tokenizer: PipelineTokenizer, text: str) -> list[PieceTrace]:
    """The merges of each piece of a text, in which nothing is an added token.

    Raises ValueError if the vocabulary has no merges, as WordPiece and Unigram, or the text can't be expressed in it.
    """
    vocabulary = tokenizer.vocabulary
    begin, rank = _merging(vocabulary)
    tokens = dict(vocabulary.tokens())
    traces = []
    for piece in filter(None, tokenizer.pieces(text)):
        ids = vocabulary.encode_piece(piece)
        symbols = begin(piece)
        if len(ids) == 1 and getattr(vocabulary, "ignore_merges", False) and len(symbols) > 1:
            traces.append(PieceTrace(piece, (tokens[ids[0]],), (), whole=True))
        else:
            traces.append(PieceTrace(piece, tuple(symbols), tuple(_steps(list(symbols), rank)), whole=False))
    return traces


def _merging(vocabulary: Any) -> tuple[Callable[[str], Sequence[str]], Callable[[str, str], tuple[int, str] | None]]:
    """What a piece begins as, and the rank and the result of merging two tokens."""
    if getattr(vocabulary, "is_by_ranks", False):
        ranks = {to_text(token): rank for token, rank in vocabulary.vocabulary.items()}
        return _bytes_of, lambda left, right: (ranks[left + right], left + right) if left + right in ranks else None
    merges = getattr(vocabulary, "merges", None)
    if merges is None:
        raise ValueError(f"a {type(vocabulary).__name__} vocabulary has no merges: only byte pair encodings have")
    if merges and isinstance(merges[0][0], bytes):
        merges = [(to_text(left), to_text(right)) for left, right in merges]
    pairs = {pair: rank for rank, pair in enumerate(merges)}
    prefix = getattr(vocabulary, "continuing_subword_prefix", "")
    suffix = getattr(vocabulary, "end_of_word_suffix", "")

    def characters(piece: str) -> list[str]:
        last = len(piece) - 1
        return [f"{prefix if i else ''}{c}{suffix if i == last else ''}" for i, c in enumerate(piece)]

    def rank(left: str, right: str) -> tuple[int, str] | None:
        return (pairs[left, right], left + right[len(prefix) :]) if (left, right) in pairs else None

    return (_bytes_of if hasattr(vocabulary, "encode_bytes") else characters), rank


def _bytes_of(piece: str) -> list[str]:
    return [to_text(bytes([byte])) for byte in piece.encode("utf-8")]


def _steps(tokens: list[str], rank: Callable[[str, str], tuple[int, str] | None]) -> Iterable[MergeStep]:
    """Of the adjacent pairs with the lowest rank, the leftmost is merged, until none has a rank."""
    while found := [
        (ranked[0], i, ranked[1])
        for i in range(len(tokens) - 1)
        if (ranked := rank(tokens[i], tokens[i + 1])) is not None
    ]:
        lowest, i, merged = min(found)
        left, right = tokens[i : i + 2]
        tokens[i : i + 2] = [merged]
        yield MergeStep(lowest, left, right, tuple(tokens))


@dataclass(frozen=True)
class TokenUse:
    """How often a corpus uses each token."""

    counts: np.ndarray
    """[vocab_size] int64"""

    ordinary: np.ndarray
    """ids of all tokens that are text, ascending; the others are special, or ids that no token has"""

    @property
    def tokens(self) -> int:
        """in the corpus"""
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """different ones in the corpus"""
        return int((self.counts > 0).sum())

    @property
    def unused(self) -> np.ndarray:
        """The ids of text that the corpus doesn't use, ascending."""
        return self.ordinary[self.counts[self.ordinary] == 0]

    def zipf(self) -> tuple[float, float]:
        """The exponent s of count ~ rank^-s, and r², by least squares on the logarithms; 1 is Zipf's law.

        Tokens that occur once or twice are left out, since their steps say nothing. Raises ValueError if fewer than
        three are left.
        """
        import numpy as np

        counts = np.sort(self.counts[self.counts > 2])[::-1]
        if len(counts) < 3 or counts[0] == counts[-1]:
            raise ValueError("the corpus is too small for Zipf's law: at least three tokens must occur three times")
        x, y = np.log(np.arange(1, len(counts) + 1)), np.log(counts)
        slope, intercept = np.polyfit(x, y, 1)
        residual = y - (slope * x + intercept)
        return -float(slope), 1 - float(residual @ residual / np.sum((y - y.mean()) ** 2))

    def most_common(self, number: int) -> list[tuple[int, int]]:
        """The ids of the most frequent tokens with their counts; of equal ones the lower id first."""
        import numpy as np

        order = np.argsort(-self.counts, kind="stable")[:number]
        return [(int(i), int(self.counts[i])) for i in order if self.counts[i]]


def token_use(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenUse:
    """Counts the tokens of a corpus. Raises ValueError if it is empty."""
    import numpy as np

    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for text in texts:
        counts += np.bincount(np.asarray(tokenizer.encode(text), np.int64), minlength=len(counts))
    if not counts.any():
        raise ValueError("the corpus has no text")
    return TokenUse(counts, np.array(_ordinary(tokenizer), np.int64))


@dataclass(frozen=True)
class Reachability:
    """Which tokens texts can be encoded as; ids, ascending."""

    reachable: tuple[int, ...]
    partial: tuple[int, ...]
    """tokens of incomplete characters: whether a text has them depends on its other bytes"""
    unreachable: tuple[int, ...]


def reachability(tokenizer: Tokenizer) -> Reachability:
    """Encodes the text of each token, at the begin of a text and behind others, and looks whether it comes back.

    A token that doesn't is one that merges, the cutting into pieces, normalization or better tokens keep from ever
    being made. It could still occur in surroundings that are not tried here, but that is rare.
    """
    found: dict[str, list[int]] = {"reachable": [], "partial": [], "unreachable": []}
    for token in _ordinary(tokenizer):
        try:
            text = tokenizer.token_bytes(token).decode("utf-8")
        except UnicodeDecodeError:
            found["partial"].append(token)
            continue
        # At the begin of a text some tokenizers put a space themselves.
        tried = chain((before + text for before in _BEFORE), [text.removeprefix(" ")] if text != " " else [])
        reached = any(token in _encoded(tokenizer, surrounded) for surrounded in tried)
        found["reachable" if reached else "unreachable"].append(token)
    return Reachability(**{kind: tuple(ids) for kind, ids in found.items()})


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(text)
    except ValueError:
        # The vocabulary can't express what was put before the token.
        return []


def _ordinary(tokenizer: Tokenizer) -> list[int]:
    special = set(tokenizer.special_tokens.values())
    return [i for i in range(tokenizer.vocab_size) if i not in special and _has_bytes(tokenizer, i)]


def _has_bytes(tokenizer: Tokenizer, token: int) -> bool:
    try:
        return tokenizer.token_bytes(token) != b""
    except ValueError:
        # An id below vocab_size that no token has.
        return False


@dataclass(frozen=True)
class UndertrainedTokens:
    """Tokens from the one that looks least trained on; what the model does with them has to be tried out."""

    ids: np.ndarray
    indicator: np.ndarray
    """of these ids, ascending: the smaller, the less trained on"""
    kind: str


def undertrained_tokens(
    tokenizer: Tokenizer,
    embeddings: Any,
    unembeddings: Any = None,
    *,
    never_trained: Sequence[int] = (),
    share: float = 0.02,
) -> UndertrainedTokens:
    """The share of the tokens whose embeddings look least trained, by the indicators of Land and Bartolo 2024.

    embeddings: [rows, width] of the input, with a row for each id; more rows than ids are padding. unembeddings: those
    of the output, where they are others. With ids that are known to be never_trained, for which padding rows serve too,
    the indicator is the cosine distance of an output row to their mean, after the first principal component, which all
    rows share, is taken away. Without any, it is the Euclidean norm of the input row: weight decay shrinks what no
    gradient moves.

    Raises ValueError if shapes, ids or share are impossible.
    """
    import numpy as np

    rows = np.asarray(embeddings, np.float64)
    output = rows if unembeddings is None else np.asarray(unembeddings, np.float64)
    if rows.ndim != 2 or len(rows) < tokenizer.vocab_size or output.ndim != 2 or len(output) < tokenizer.vocab_size:
        raise ValueError(
            f"embeddings must have a row for each of {tokenizer.vocab_size} ids, got the shapes {rows.shape} and "
            f"{output.shape}"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must be more than 0 and at most 1, got {share}")
    reference = [*never_trained, *range(tokenizer.vocab_size, len(output))]
    if unfit := [i for i in reference if not 0 <= i < len(output)]:
        raise ValueError(f"never_trained names the id {unfit[0]}; the embeddings have the rows 0 .. {len(output) - 1}")
    if reference:
        # The first right singular vector, by the small matrix of inner products, since there are many more rows.
        common = np.linalg.eigh(output.T @ output)[1][:, -1]
        own = output - np.outer(output @ common, common)
        mean = own[reference].mean(0)
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(mean)
        indicator = 1 - own @ mean / np.where(lengths > 0, lengths, 1)
    else:
        indicator = np.linalg.norm(rows, axis=1)
    ids = np.array([i for i in _ordinary(tokenizer) if i not in set(never_trained)], np.int64)
    ids = ids[np.argsort(indicator[ids], kind="stable")][: max(1, round(share * len(ids)))]
    return UndertrainedTokens(ids, indicator[ids], "cosine distance to untrained rows" if reference else "norm")
