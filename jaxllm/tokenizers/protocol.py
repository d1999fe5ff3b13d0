"""What everything else knows of a tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from os import PathLike
from typing import Literal, Protocol, runtime_checkable

END_OF_TEXT = "<|endoftext|>"
"""The name of the special token that begins and ends a document."""

AllowedSpecial = Literal["all"] | Collection[str]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Ids are 0 .. vocab_size - 1; each stands for fixed bytes, or is a special token.

    A special token is no text: encoding makes one only where it is allowed to, and decoding leaves it out.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token."""

    @property
    def end_of_text(self) -> int:
        """The id of "<|endoftext|>", which both begins and ends a document."""

    def encode(self, text: str, *, allowed_special: AllowedSpecial = frozenset()) -> list[int]:
        """The ids of a text.

        Text that looks like a special token is ordinary text, unless that token is named in allowed_special, or this
        is "all". Raises ValueError for an unknown name in there, and for text that the vocabulary can't express.
        """

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises ValueError for an id out of range."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, as they are. Raises ValueError for an id out of range."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for, b"" for a special token. Raises ValueError for an id out of range."""

    def fingerprint(self) -> str:
        """SHA-256, as hex, of everything that decides how text is encoded; equal for equal tokenizers."""

    def save(self, directory: str | PathLike[str]) -> None:
        """Writes a directory that `jaxllm.tokenizers.load` reads; a tokenizer that is in it already is replaced."""
