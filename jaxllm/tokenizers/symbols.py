"""Tokenizers without merges: one token for each character of a corpus, or for each byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxllm.tokenizers import storage
from jaxllm.tokenizers.protocol import END_OF_TEXT, AllowedSpecial
from jaxllm.tokenizers.special import cut_out_special


class Symbols:
    """Ids are positions in `symbols`; `<|endoftext|>` comes last. `kind` says whether a symbol is a character or a
    byte."""

    def __init__(self, kind: str, symbols: Sequence[bytes]):
        self.kind = kind
        self.symbols = list(symbols)
        self.end_of_text = len(self.symbols)
        self.vocab_size = len(self.symbols) + 1
        self.special_tokens = {END_OF_TEXT: self.end_of_text}
        self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """Raises ValueError for a character that the corpus of a character tokenizer did not have."""
        if not allowed_special:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for part in cut_out_special(text, self.special_tokens, allowed_special):
            ids += [part] if isinstance(part, int) else self._encode_ordinary(part)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.token_bytes(token) for token in ids)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of 0 to {self.vocab_size - 1}")
        return b"" if token == self.end_of_text else self.symbols[token]

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.kind, [s.hex() for s in self.symbols]]).encode()).hexdigest()

    def save(self, directory: str | Path) -> None:
        symbols = [s.decode() for s in self.symbols] if self.kind == "character" else []
        storage.write(directory, {"type": self.kind, "symbols": symbols})

    def _encode_ordinary(self, text: str) -> list[int]:
        if self.kind == "byte":
            return list(text.encode())
        try:
            return [self._ids[character.encode()] for character in text]
        except KeyError as error:
            character = error.args[0].decode()
            raise ValueError(
                f"the character {character!r} is not in this tokenizer's vocabulary of {len(self.symbols)} characters: "
                "leave it out, or train with tokenizer.kind=byte_bpe, which can write any text"
            ) from error


def byte_tokenizer() -> Symbols:
    return Symbols("byte", [bytes([i]) for i in range(256)])


def train_character(texts: Iterable[str]) -> Symbols:
    """One token for each character of the corpus, in the order of their code points."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise ValueError("the corpus has no text to take characters from")
    return Symbols("character", [character.encode() for character in sorted(characters)])
