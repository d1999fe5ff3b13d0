"""What can be said about the tokenizer of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxllm.tokenizers.protocol import END_OF_TEXT

Kind = Literal["byte_bpe", "character", "byte"]
Split = Literal["cl100k", "gpt2"]


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run makes from its own training text, or where it has one already."""

    kind: Kind = "byte_bpe"
    """byte pair encoding on bytes; one id for each character of the training text; or one for each of the 256 bytes"""

    vocab_size: int = 4096
    """ids of a "byte_bpe" in all, special tokens included; the other kinds have as many as they need"""

    split: Split = "cl100k"
    """with "byte_bpe": how text is cut before bytes are merged, named after the vocabulary that introduced it"""

    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """tokens that are no text; they get the last ids"""

    path: str = ""
    """a directory with a tokenizer.json, or the file: use it, instead of training one as described above"""

    def __post_init__(self):
        for field, choices in (("kind", get_args(Kind)), ("split", get_args(Split))):
            if getattr(self, field) not in choices:
                raise ValueError(f"tokenizer.{field} must be one of {', '.join(choices)}, got {getattr(self, field)!r}")
        if END_OF_TEXT not in self.special_tokens:
            raise ValueError(f"tokenizer.special_tokens must include {END_OF_TEXT!r}, got {self.special_tokens}")
        if len(set(self.special_tokens)) != len(self.special_tokens) or "" in self.special_tokens:
            raise ValueError(f"tokenizer.special_tokens must be distinct and not empty, got {self.special_tokens}")
        smallest = 256 + len(self.special_tokens)
        if self.kind == "byte_bpe" and self.vocab_size < smallest:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} is smaller than the byte alphabet: it must be at least "
                f"{smallest} (256 bytes and {len(self.special_tokens)} special tokens)"
            )
