"""What all tokenizers here share: a table of the bytes of each id, special tokens, and their file."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from jaxllm.tokenizers import storage
from jaxllm.tokenizers.protocol import END_OF_TEXT, AllowedSpecial


class TableTokenizer(ABC):
    """A tokenizer in which each id stands for fixed bytes; the methods are described at `Tokenizer`."""

    def __init__(self, token_bytes: Mapping[int, bytes], special_tokens: Mapping[str, int]):
        """token_bytes: of each id that is not special. Raises ValueError unless the ids are 0 .. vocab_size - 1."""
        if END_OF_TEXT not in special_tokens:
            raise ValueError(f"the special tokens must include {END_OF_TEXT!r}, got {list(special_tokens)}")
        self._bytes = dict(token_bytes) | dict.fromkeys(special_tokens.values(), b"")
        self._special = dict(special_tokens)
        count = len(token_bytes) + len(special_tokens)
        missing = next((i for i in range(count) if i not in self._bytes), None)
        if missing is not None:
            raise ValueError(f"{count} tokens must have the ids 0 .. {count - 1}, each once, but none has {missing}")

    @abstractmethod
    def _encode_text(self, text: str) -> list[int]:
        """The ids of a text in which nothing is special."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """The tokenizer as the JSON object that its file holds."""

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self._special)

    @property
    def end_of_text(self) -> int:
        return self._special[END_OF_TEXT]

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        if not allowed_special:
            return self._encode_text(text)
        names = self._names(allowed_special)
        # The group makes split() keep the names between the texts; of two that begin alike, the longer one counts.
        cut = re.compile("(" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + ")")
        ids = []
        for position, part in enumerate(cut.split(text)):
            ids += [self._special[part]] if position % 2 else self._encode_text(part)
        return ids

    def _names(self, allowed_special: AllowedSpecial) -> set[str]:
        if allowed_special == "all":
            return set(self._special)
        if isinstance(allowed_special, str):
            raise ValueError(f'allowed_special must be "all" or a set of names, got the string {allowed_special!r}')
        unknown = set(allowed_special) - set(self._special)
        if unknown:
            raise ValueError(f"unknown special tokens {sorted(unknown)}; this tokenizer has {list(self._special)}")
        return set(allowed_special)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self._encode_text(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        try:
            return b"".join(map(self._bytes.__getitem__, ids))
        except KeyError as error:
            raise self._out_of_range(error.args[0]) from None

    def token_bytes(self, token: int) -> bytes:
        try:
            return self._bytes[token]
        except KeyError:
            raise self._out_of_range(token) from None

    def _out_of_range(self, token: int) -> ValueError:
        return ValueError(f"id {token} is not in the vocabulary, whose ids are 0 .. {self.vocab_size - 1}")

    def fingerprint(self) -> str:
        text = json.dumps(self.description(), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, directory: str | PathLike[str]) -> None:
        storage.write(directory, self.description())
