"""Vocabularies of words: WordPiece takes words apart into the longest pieces it knows, a word-level one doesn't.

WordPiece is BERT's (Devlin et al. 2018, after Schuster and Nakajima 2012). A piece that doesn't begin a word is marked
by a prefix, "##" as a rule. A word that can't be taken apart is the unknown token as a whole, and so is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from jaxllm.tokenizers.stages import Span


def check_ids(vocab: Mapping[str, int]) -> None:
    """Raises ValueError if an id is no integer, is negative, or belongs to two tokens."""
    tokens: dict[int, str] = {}
    for token, i in vocab.items():
        if type(i) is not int or i < 0:
            raise ValueError(f"the id of {token!r} is {i!r}; an id is an integer, 0 or greater")
        if tokens.setdefault(i, token) != token:
            raise ValueError(f"the tokens {tokens[i]!r} and {token!r} have the same id {i}; each token needs its own")


@dataclass(frozen=True)
class WordPiece:
    """Takes the longest token that begins a word, then the longest that continues it, and so on to its end.

    A word that this doesn't bring to its end, or that has more than max_input_chars_per_word characters, becomes
    unk_token. Raises ValueError for ids that are no such, and where a word needs unk_token and vocab lacks it.
    """

    vocab: Mapping[str, int]
    unk_token: str = "[UNK]"
    continuing_subword_prefix: str = "##"
    max_input_chars_per_word: int = 100

    def __post_init__(self) -> None:
        check_ids(self.vocab)
        if self.max_input_chars_per_word < 1:
            raise ValueError(f"max_input_chars_per_word must be at least 1, got {self.max_input_chars_per_word}")

    @cached_property
    def _longest(self) -> tuple[int, int]:
        """Characters of the longest token that can begin a word, and of the longest that can continue one."""
        prefix = self.continuing_subword_prefix
        continuing = (len(token) - len(prefix) for token in self.vocab if token.startswith(prefix))
        return max(map(len, self.vocab), default=0), max(continuing, default=0)

    def tokens(self) -> Iterator[tuple[int, str]]:
        return ((i, token) for token, i in self.vocab.items())

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        return tuple(i for i, _ in self.encode_spans(piece))

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        if not piece:
            return []
        if len(piece) > self.max_input_chars_per_word:
            return [self._unknown(piece)]
        found: list[tuple[int, Span]] = []
        vocab, begin, prefix = self.vocab, 0, ""
        longest, longest_continuing = self._longest
        while begin < len(piece):
            for end in range(min(len(piece), begin + longest), begin, -1):
                if (i := vocab.get(prefix + piece[begin:end])) is not None:
                    break
            else:
                return [self._unknown(piece)]
            found.append((i, (begin, end)))
            begin, prefix, longest = end, self.continuing_subword_prefix, longest_continuing
        return found

    def _unknown(self, piece: str) -> tuple[int, Span]:
        return _unknown(self.vocab, self.unk_token, piece)


@dataclass(frozen=True)
class WordLevel:
    """Each piece is one token or unk_token: a word or character baseline, depending on the cut before it.

    Raises ValueError for ids that are no such, and where a piece needs unk_token and vocab lacks it.
    """

    vocab: Mapping[str, int]
    unk_token: str = "<unk>"

    def __post_init__(self) -> None:
        check_ids(self.vocab)

    def tokens(self) -> Iterator[tuple[int, str]]:
        return ((i, token) for token, i in self.vocab.items())

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        return tuple(i for i, _ in self.encode_spans(piece))

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        if not piece:
            return []
        i = self.vocab.get(piece)
        return [_unknown(self.vocab, self.unk_token, piece) if i is None else (i, (0, len(piece)))]


def _unknown(vocab: Mapping[str, int], unk_token: str, piece: str) -> tuple[int, Span]:
    i = vocab.get(unk_token)
    if i is None:
        raise ValueError(
            f"{piece!r} can't be made of the vocabulary's {len(vocab):,} tokens, and the unknown token {unk_token!r} "
            "is not one of them; add it to the vocabulary, or name the one it has"
        )
    return i, (0, len(piece))
