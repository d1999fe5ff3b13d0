"""From tokens back to text.

Every step here works on one token at a time, so a token stands for the same bytes wherever it is, and text can be shown
while it is being generated. Only a leading space that encoding put before the whole text is taken away at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxllm.tokenizers.vocabularies.byte_alphabet import ALPHABET, to_bytes
from jaxllm.tokenizers.vocabularies.byte_tokens import byte_of

# What Hugging Face's cleanup replaces, in its order.
_CLEANED = [(f" {mark}", mark) for mark in (".", "?", "!", ",")]
_CLEANED += [(" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" do not", " don't")]
_CLEANED += [(f" {ending}", ending) for ending in ("'s", "'ve", "'re")]


@dataclass(frozen=True)
class ByteLevel:
    """Each character is a byte, as GPT-2 wrote them down."""

    def token(self, text: str) -> str | bytes:
        return to_bytes(text) if ALPHABET.issuperset(text) else text


@dataclass(frozen=True)
class ByteFallback:
    """The token <0xE2> is the byte 0xE2."""

    def token(self, text: str) -> str | bytes:
        byte = byte_of(text)
        return text if byte is None else byte


@dataclass(frozen=True)
class Replace:
    """One string becomes another, as "▁" a space."""

    pattern: str
    content: str

    def token(self, text: str) -> str:
        return text.replace(self.pattern, self.content)


@dataclass(frozen=True)
class Metaspace:
    """A symbol stands for a space; where encoding puts one before the text, it is taken away."""

    replacement: str = "▁"
    prepend_scheme: str = "always"
    split: bool = True
    """of no meaning here; kept for files"""

    def token(self, text: str) -> str:
        return text.replace(self.replacement, " ")


@dataclass(frozen=True)
class WordPiece:
    """Words are joined by spaces, and a token with the prefix continues a word."""

    prefix: str = "##"
    cleanup: bool = True
    """no space before punctuation and English contractions"""

    def token(self, text: str) -> str:
        text = text[len(self.prefix) :] if self.prefix and text.startswith(self.prefix) else f" {text}"
        if self.cleanup:
            for spaced, joined in _CLEANED:
                text = text.replace(spaced, joined)
        return text


@dataclass(frozen=True)
class Words:
    """Tokens are words, joined by spaces: what files mean that name no decoder."""

    def token(self, text: str) -> str:
        return f" {text}"


@dataclass(frozen=True)
class Fuse:
    """The tokens become one text; steps that follow change it as a whole."""


@dataclass(frozen=True)
class Strip:
    """Takes a character away, up to so often, at the begin and at the end of the text."""

    content: str = " "
    start: int = 0
    stop: int = 0


Step = ByteLevel | ByteFallback | Replace | Metaspace | WordPiece | Words | Fuse | Strip


class Decoder:
    """The steps, one after the other.

    Raises ValueError for a combination in which the bytes of a token would depend on its neighbours.
    """

    def __init__(self, steps: Sequence[Step]):
        self.steps = tuple(steps)
        names = [type(step).__name__ for step in self.steps]
        fused = names.index("Fuse") if "Fuse" in names else len(names)
        self._of_token = [step for step in self.steps[:fused] if not isinstance(step, Strip)]
        of_text = [step for step in self.steps[fused + 1 :] if not isinstance(step, Fuse)]
        if "Strip" in names[:fused] or any(step != Strip(" ", 1, 0) for step in of_text):
            raise ValueError(
                f"the decoder {' then '.join(names)} is not supported: what follows Fuse may only be a Strip of one "
                "space at the begin, and Strip may not come before it"
            )
        spaced = any(isinstance(step, WordPiece | Words) for step in self._of_token)
        prepended = any(isinstance(step, Metaspace) and step.prepend_scheme != "never" for step in self._of_token)
        self.strips_space = bool(of_text) or spaced or prepended
        """whether a text loses a space at its begin"""

    def token_bytes(self, token: str, added: bool = False) -> bytes:
        """What a token stands for, inside a text. One that was added by hand is never written in the byte alphabet."""
        text: str | bytes = token
        for step in self._of_token:
            if isinstance(text, bytes):
                break
            if not (added and isinstance(step, ByteLevel)):
                text = step.token(text)
        return text if isinstance(text, bytes) else text.encode("utf-8")
