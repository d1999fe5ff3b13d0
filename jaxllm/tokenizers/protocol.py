"""What everything else knows of a tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from os import PathLike
from typing import Literal, NamedTuple, Protocol, runtime_checkable

END_OF_TEXT = "<|endoftext|>"
"""The name that tokenizers trained here give to the special token that begins and ends a document."""

AllowedSpecial = Literal["all"] | Collection[str]


class Encoding(NamedTuple):
    """The ids of a text, and the characters of it that each came from, as (begin, end)."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Ids are 0 .. vocab_size - 1; each stands for fixed bytes, or is a special token.

    A special token is no text: encoding makes one only where it is allowed to, and decoding leaves it out.
    """

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token."""

    @property
    def end_of_text(self) -> int:
        """The id that both begins and ends a document. Raises ValueError if it is not known."""

    @property
    def strips_space(self) -> bool:
        """Whether decoding takes one space away from the begin of a text."""

    def encode(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        disallowed_special: AllowedSpecial = frozenset(),
        add_special_tokens: bool = False,
    ) -> list[int]:
        """The ids of a text.

        Text that looks like a special token is ordinary text, unless that token is in allowed_special (then it becomes
        the token) or in disallowed_special (then ValueError is raised); either may be "all", and what is allowed is
        not disallowed. add_special_tokens puts the tokens around the text that the vocabulary was made for. Raises
        ValueError for an unknown name, and for text that the vocabulary can't express.
        """

    def encode_with_offsets(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = frozenset(),
        disallowed_special: AllowedSpecial = frozenset(),
    ) -> Encoding:
        """The ids of a text and where each came from. Tokens of one character's bytes all cover that character."""

    def encode_batch(self, texts: Iterable[str], processes: int = 1) -> list[list[int]]:
        """The ids of each text, in which nothing is special; worked out by so many processes."""

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises ValueError for an id out of range."""

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """The bytes of ids, as they are. Raises ValueError for an id out of range."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for inside a text, b"" for a special token.

        Raises ValueError for an id out of range.
        """

    def fingerprint(self) -> str:
        """SHA-256, as hex, of everything that decides how text is encoded; equal for equal tokenizers."""

    def save(self, directory: str | PathLike[str]) -> None:
        """Writes a directory that `jaxllm.tokenizers.load` reads; a tokenizer that is in it already is replaced."""
