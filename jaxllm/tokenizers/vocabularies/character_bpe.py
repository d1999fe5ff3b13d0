"""Byte pair encoding on characters: what the list of merges can't make of a character is unknown, or becomes bytes.

Sennrich et al. 2016. The vocabularies of Llama-2, Mistral and Gemma are written so in their tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from jaxllm.tokenizers.stages import Span
from jaxllm.tokenizers.vocabularies.merging import merge_pairs
from jaxllm.tokenizers.vocabularies.unknown_characters import UnknownCharacters
from jaxllm.tokenizers.vocabularies.watched_merging import check_dropout, merge_watched

# A symbol is written as the character whose code is its id.
_MOST_IDS = 0x110000


class CharacterBPE:
    """Tokens and the merges that make them; the arguments are the fields of Hugging Face's "BPE"."""

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        unk_token: str | None = None,
        byte_fallback: bool = False,
        fuse_unk: bool = False,
        ignore_merges: bool = False,
        continuing_subword_prefix: str = "",
        end_of_word_suffix: str = "",
    ):
        """vocab: the id of each token. merges: pairs of tokens, the lowest rank first.

        unk_token: for a character without a token; without it, such a character is refused. byte_fallback: it becomes
        the tokens of its bytes, "<0x00>" to "<0xFF>". fuse_unk: adjacent unknown characters become one token.
        ignore_merges: a whole piece that is a token becomes it at once. continuing_subword_prefix: begins the tokens of
        all characters but a piece's first. end_of_word_suffix: ends that of its last.

        Raises ValueError if two tokens have one id, if an id is out of range, if a merge is there twice, and if a token
        that a merge or another argument speaks of is not there.
        """
        self.vocab, self.merges = dict(vocab), tuple((left, right) for left, right in merges)
        self.unk_token, self.byte_fallback, self.fuse_unk = unk_token, byte_fallback, fuse_unk
        self.ignore_merges = ignore_merges
        self.continuing_subword_prefix, self.end_of_word_suffix = continuing_subword_prefix, end_of_word_suffix
        self._token_of = _tokens_of_ids(self.vocab)
        if byte_fallback and (continuing_subword_prefix or end_of_word_suffix):
            raise ValueError(
                "byte_fallback is not supported together with continuing_subword_prefix or end_of_word_suffix: the "
                "bytes of a character could not tell where in a piece it stands"
            )
        if unk_token is not None and unk_token not in self.vocab:
            raise ValueError(f"the token for unknown characters, {unk_token!r}, is not in the vocabulary")
        unk_id = None if unk_token is None else self.vocab[unk_token]
        self._unknown = UnknownCharacters(self.vocab, unk_id, byte_fallback, fuse_unk)
        self._ranks, self._merged = self._tabulate()
        # Where a character's token depends on nothing else, a piece is translated at once; so almost all are.
        plain = not continuing_subword_prefix and not end_of_word_suffix
        self._symbols = {ord(token): chr(i) for token, i in self.vocab.items() if len(token) == 1} if plain else {}
        self._characters = set(map(chr, self._symbols))

    def __reduce__(self):
        return _rebuild, (self.vocab, self.merges, self._settings())

    def _settings(self) -> dict[str, object]:
        return {
            "unk_token": self.unk_token,
            "byte_fallback": self.byte_fallback,
            "fuse_unk": self.fuse_unk,
            "ignore_merges": self.ignore_merges,
            "continuing_subword_prefix": self.continuing_subword_prefix,
            "end_of_word_suffix": self.end_of_word_suffix,
        }

    def tokens(self) -> Iterator[tuple[int, str]]:
        return ((i, token) for token, i in self.vocab.items())

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        if self.ignore_merges and piece in self.vocab:
            return (self.vocab[piece],)
        if self._characters.issuperset(piece):
            symbols = piece.translate(self._symbols)
        else:
            symbols = "".join(chr(i) for i, _ in self._initial(piece))
        return tuple(map(ord, merge_pairs(symbols, self._ranks, self._merged)))

    def encode_spans(self, piece: str) -> list[tuple[int, Span]]:
        if self.ignore_merges and piece in self.vocab:
            return [(self.vocab[piece], (0, len(piece)))]
        initial = self._initial(piece)
        return self._covered(merge_pairs("".join(chr(i) for i, _ in initial), self._ranks, self._merged), initial)

    def sample(self, piece: str, random: Random, dropout: float) -> tuple[int, ...]:
        """The ids where each merge, when its turn comes, is left out with a probability (Provilkov et al. 2020)."""
        check_dropout(dropout)
        parts = merge_watched(
            [chr(i) for i, _ in self._initial(piece)],
            lambda left, right: self._ranks.get(left + right),
            lambda left, right: self._merged[self._ranks[left + right]],
            dropped=lambda: random.random() < dropout,
        )
        return tuple(map(ord, parts))

    def _initial(self, piece: str) -> list[tuple[int, Span]]:
        """The ids before any merge."""
        prefix, suffix, last = self.continuing_subword_prefix, self.end_of_word_suffix, len(piece) - 1
        tokens = (f"{prefix if i else ''}{c}{suffix if i == last else ''}" for i, c in enumerate(piece))
        return list(self._unknown.resolve(piece, ((i, i + 1, self.vocab.get(token)) for i, token in enumerate(tokens))))

    def _covered(self, symbols: str, initial: list[tuple[int, Span]]) -> list[tuple[int, Span]]:
        """What each symbol covers: merging keeps the text of the tokens, so as much of the initial ones' text."""
        covered, place, prefix = [], 0, len(self.continuing_subword_prefix)
        for i in map(ord, symbols):
            begin, length = place, 0
            while length < len(self._token_of[i]):
                length += len(self._token_of[initial[place][0]]) - (prefix if length else 0)
                place += 1
            covered.append((i, (initial[begin][1][0], initial[place - 1][1][1])))
        return covered

    def _tabulate(self) -> tuple[dict[str, int], list[str]]:
        """The rank of each pair of symbols, and the symbol that the merge of each rank makes."""
        ranks: dict[str, int] = {}
        merged: list[str] = []
        for rank, (left, right) in enumerate(self.merges):
            made = left + right[len(self.continuing_subword_prefix) :]
            for token in (left, right, made):
                if token not in self.vocab:
                    raise ValueError(f"merge {rank}, of {left!r} and {right!r}: {token!r} is not in the vocabulary")
            pair = chr(self.vocab[left]) + chr(self.vocab[right])
            if pair in ranks:
                raise ValueError(f"merge {rank}, of {left!r} and {right!r}, is there already, as merge {ranks[pair]}")
            ranks[pair] = rank
            merged.append(chr(self.vocab[made]))
        return ranks, merged


def _rebuild(vocab, merges, settings) -> CharacterBPE:
    return CharacterBPE(vocab, merges, **settings)


def _tokens_of_ids(vocab: Mapping[str, int]) -> dict[int, str]:
    tokens: dict[int, str] = {}
    for token, i in vocab.items():
        if not token:
            raise ValueError(f"the token of id {i} is empty")
        if not 0 <= i < _MOST_IDS:
            raise ValueError(f"the token {token!r} has the id {i}, which is not in 0 .. {_MOST_IDS - 1}")
        if tokens.setdefault(i, token) != token:
            raise ValueError(f"the tokens {tokens[i]!r} and {token!r} have the same id {i}")
    return tokens
