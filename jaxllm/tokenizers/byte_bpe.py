"""Byte pair encoding on bytes: any text, no unknown tokens, nothing lost.

Text is cut into pieces by a pattern, and within each piece the adjacent pair of the lowest rank is merged until none
is left (Sennrich et al. 2016, on bytes as in GPT-2). While it is being merged, a piece is a string in which chr(i)
stands for the token of id i, so that finding and replacing a pair are operations on strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from operator import add
from typing import Any

from jaxllm.tokenizers import tokenizer_json
from jaxllm.tokenizers.byte_alphabet import BYTE_ORDER
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.split_patterns import splitter
from jaxllm.tokenizers.table import TableTokenizer

# Encoded pieces that are remembered; ordinary text repeats itself so much that this decides the speed of encoding.
_CACHE_PIECES = 1 << 18
_CACHE_LONGEST = 64

# Well-formed UTF-8 (Unicode standard, table 3-7), as far as it reaches.
_UTF8 = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})+"
)


class ByteBPE(TableTokenizer):
    """The tokenizer of a vocabulary and its merges."""

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        split_pattern: str,
        special_tokens: Mapping[str, int],
    ):
        """vocabulary: the id of each token but the special ones. merges: pairs of tokens, the lowest rank first.

        Raises ValueError if a byte or a token that a merge names is not in the vocabulary, if a merge occurs twice, or
        if the ids are not 0 .. vocab_size - 1.
        """
        token_bytes: dict[int, bytes] = {}
        for piece, token in vocabulary.items():
            if token_bytes.setdefault(token, piece) != piece:
                raise ValueError(f"the tokens {token_bytes[token]!r} and {piece!r} have the same id {token}")
        super().__init__(token_bytes, special_tokens)
        absent = [byte for byte in range(256) if bytes([byte]) not in vocabulary]
        if absent:
            raise ValueError(f"the vocabulary lacks {len(absent)} of the 256 bytes, the first is 0x{absent[0]:02x}")
        self._merges = tuple(merges)
        self._pattern = split_pattern
        self._split = splitter(split_pattern)
        # str.translate takes a table from code points, and decoding as Latin-1 makes a code point of each byte.
        self._symbols = {byte: chr(vocabulary[bytes([byte])]) for byte in range(256)}
        self._ranks, self._merged = _tabulate(self._merges, vocabulary)
        self._pieces = _PieceCache(self._encode_piece)

    def __reduce__(self):
        # A copy in another process compiles the pattern anew and starts with an empty cache.
        return type(self), (self.vocabulary, self._merges, self._pattern, self.special_tokens)

    @classmethod
    def from_merges(
        cls, merges: Sequence[tuple[bytes, bytes]], split_pattern: str, special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> ByteBPE:
        """Numbers the tokens: the bytes in BYTE_ORDER, one for each merge that makes a new one, the special tokens."""
        tokens = dict.fromkeys(chain((bytes([byte]) for byte in BYTE_ORDER), (left + right for left, right in merges)))
        vocabulary = {token: i for i, token in enumerate(tokens)}
        special = {name: len(vocabulary) + i for i, name in enumerate(special_tokens)}
        return cls(vocabulary, merges, split_pattern, special)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ByteBPE:
        """Reads Hugging Face's tokenizer.json. Raises ValueError for what is malformed, or not supported here."""
        return cls(*tokenizer_json.parse(description))

    def description(self) -> dict[str, Any]:
        return tokenizer_json.describe(self.vocabulary, self._merges, self._pattern, self.special_tokens)

    @property
    def vocabulary(self) -> dict[bytes, int]:
        """The id of each token but the special ones."""
        return {piece: token for token, piece in self._bytes.items() if piece}

    @property
    def merges(self) -> tuple[tuple[bytes, bytes], ...]:
        """The pairs that are merged, the lowest rank first."""
        return self._merges

    @property
    def split_pattern(self) -> str:
        """The regular expression whose matches are the pieces."""
        return self._pattern

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; decode_bytes gives them back.

        Each longest run of well-formed UTF-8 is encoded as text, and each run of bytes between two of them is a piece.
        """
        ids, end = [], 0
        for run in _UTF8.finditer(data):
            ids += self._encode_piece(data[end : run.start()])
            ids += self._encode_text(run.group().decode("utf-8"))
            end = run.end()
        return ids + list(self._encode_piece(data[end:]))

    def _encode_text(self, text: str) -> list[int]:
        try:
            return list(chain.from_iterable(map(self._pieces.__getitem__, self._split(text))))
        except UnicodeEncodeError:
            position = re.search("[\ud800-\udfff]", text).start()
            raise ValueError(
                f"character {position} of the text is {text[position]!r}, half of a UTF-16 pair and not Unicode text; "
                'make it U+FFFD, for instance by text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
            ) from None

    def _encode_piece(self, piece: bytes) -> tuple[int, ...]:
        return tuple(map(ord, self._merge(piece.decode("latin-1").translate(self._symbols))))

    def _merge(self, symbols: str) -> str:
        """What merge_slowly says, on symbols, in O(n log n) for n of them.

        The merged symbol takes the left one's place, and the right one's place becomes empty.
        """
        ranks, merged = self._ranks, self._merged
        parts = [*symbols, ""]  # the end is a neighbour too
        following = list(range(1, len(parts) + 1))
        preceding = list(range(-1, len(parts) - 1))
        waiting = [(ranks[pair], i) for i, pair in enumerate(map(add, symbols, symbols[1:])) if pair in ranks]
        heapify(waiting)
        while waiting:
            rank, i = heappop(waiting)
            j = following[i]
            # The pair may have been merged with its neighbours since it was put there.
            if ranks.get(parts[i] + parts[j]) != rank:
                continue
            parts[i], parts[j] = merged[rank], ""
            following[i] = k = following[j]
            preceding[k] = i
            for left, right in ((preceding[i], i), (i, k)):
                if left >= 0 and (changed := ranks.get(parts[left] + parts[right])) is not None:
                    heappush(waiting, (changed, left))
        return "".join(parts)


class _PieceCache(dict):
    """Ids of the pieces seen so far; a piece that is not here is encoded and, unless it is long, remembered."""

    def __init__(self, encode):
        super().__init__()
        self._encode = encode

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = self._encode(piece.encode("utf-8"))
        if len(piece) <= _CACHE_LONGEST:
            if len(self) >= _CACHE_PIECES:
                self.clear()
            self[piece] = ids
        return ids


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


def merge_slowly(piece: bytes, merges: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The definition: of the adjacent pairs with the lowest rank, the leftmost is merged, until none has a rank."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = [bytes([byte]) for byte in piece]
    while found := [(ranks[pair], i) for i, pair in enumerate(zip(tokens, tokens[1:], strict=False)) if pair in ranks]:
        _, i = min(found)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return tokens
