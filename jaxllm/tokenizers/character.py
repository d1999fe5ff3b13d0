"""One id for each character of the training text: for tiny models whose every step one wants to see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.table import TableTokenizer

FORMAT = 1


class CharacterTokenizer(TableTokenizer):
    """`characters[i]` has id i; the special tokens come last. Other characters can't be encoded."""

    def __init__(self, characters: str, special_tokens: Mapping[str, int]):
        super().__init__({i: character.encode() for i, character in enumerate(characters)}, special_tokens)
        self._characters = characters
        self._ids = {character: i for i, character in enumerate(characters)}
        if len(self._ids) != len(characters):
            raise ValueError("each character may occur only once in the vocabulary")

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Sequence[str] = (END_OF_TEXT,)) -> CharacterTokenizer:
        """The characters of the texts in the order of their code points. Raises ValueError if there are none."""
        characters = sorted(set().union(*texts))
        if not characters:
            raise ValueError("there is no text to take the characters from")
        return cls("".join(characters), {name: len(characters) + i for i, name in enumerate(special_tokens)})

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> CharacterTokenizer:
        match description:
            case {"characters": str(characters), "special_tokens": dict(special)} if all(
                type(token) is int for token in special.values()
            ):
                return cls(characters, special)
        raise ValueError("expected the fields characters, a string, and special_tokens, an object of names and ids")

    def description(self) -> dict[str, Any]:
        return {
            "type": "character",
            "format": FORMAT,
            "characters": self._characters,
            "special_tokens": self.special_tokens,
        }

    def _encode_text(self, text: str) -> list[int]:
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"the character {character!r} (U+{ord(character):04X}) at position {text.index(character)} is not one "
                f"of the {len(self._ids)} in the vocabulary; train on text that has it, or use tokenizer.kind=byte_bpe"
            ) from None
