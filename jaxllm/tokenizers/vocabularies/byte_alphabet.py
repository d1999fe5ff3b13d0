"""A printable character for each byte, as GPT-2 introduced it, so that tokens of bytes can be written as text.

Files of byte-level vocabularies use it, and its order is also the order of the first 256 ids: ties between pairs are
decided by ids, so any other order would give other merges than those of the trainers that are in use elsewhere.
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]

BYTE_ORDER = bytes(_PRINTABLE + [byte for byte in range(256) if byte not in _PRINTABLE])
"""All bytes: first those that are printable in Latin-1, then the others."""

# A printable byte is written as itself, the others as the characters from U+0100 on.
_CHARACTER_OF_BYTE = dict(
    zip(BYTE_ORDER, map(chr, _PRINTABLE + list(range(0x100, 0x200 - len(_PRINTABLE)))), strict=True)
)
_BYTE_OF_CHARACTER = {character: byte for byte, character in _CHARACTER_OF_BYTE.items()}

ALPHABET = frozenset(_BYTE_OF_CHARACTER)
"""The characters that stand for a byte."""


def to_text(token: bytes) -> str:
    """A token's bytes as printable characters: b" the" is "Ġthe"."""
    return "".join(_CHARACTER_OF_BYTE[byte] for byte in token)


def to_bytes(text: str) -> bytes:
    """What to_text was given. Raises ValueError for a character that stands for no byte."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in text)
    except KeyError as error:
        raise ValueError(
            f"{text!r} is not written in the byte alphabet: it has the character {error.args[0]!r}"
        ) from error
