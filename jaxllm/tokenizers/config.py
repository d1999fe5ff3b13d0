"""What can be said about the tokenizer of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxllm.tokenizers.protocol import END_OF_TEXT

Kind = Literal["byte_bpe", "unigram", "sentencepiece_bpe", "wordpiece", "word", "character", "byte"]
Split = Literal["gpt2", "cl100k", "llama3", "qwen2", "o200k", "deepseek-llm", "deepseek-coder", "deepseek-v3"]
Normalization = Literal["nfc", "nfd", "nfkc", "nfkd", "lowercase", "strip_accents"]

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Kinds that have as many ids as their text gives them.
_UNSIZED = ("character", "byte")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer a run makes from its own training text, or where it has one already."""

    kind: Kind = "byte_bpe"
    """byte pair encoding on bytes (GPT, Llama 3); a unigram language model (T5), or byte pair encoding on characters
    (Llama 2), both with bytes for what is left; WordPiece (BERT); as baselines, whole words, each character of the
    training text, or each of the 256 bytes"""

    vocab_size: int = 4096
    """ids in all, special tokens included; "character" and "byte" have as many as they need"""

    split: Split = "cl100k"
    """with "byte_bpe": how text is cut before bytes are merged, named after the vocabulary that introduced it"""

    normalization: tuple[Normalization, ...] = ()
    """what is done to a text first, in this order; each loses something, so that decoding can't give the text back"""

    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """tokens that are no text; they get the last ids"""

    path: str = ""
    """a tokenizer that is there already, as a directory or a file: use it, instead of training one"""

    def __post_init__(self):
        for field, choices in (("kind", get_args(Kind)), ("split", get_args(Split))):
            if getattr(self, field) not in choices:
                raise ValueError(f"tokenizer.{field} must be one of {', '.join(choices)}, got {getattr(self, field)!r}")
        if unknown := [name for name in self.normalization if name not in get_args(Normalization)]:
            raise ValueError(
                f"tokenizer.normalization must be of {', '.join(get_args(Normalization))}, got {unknown[0]!r}"
            )
        if END_OF_TEXT not in self.special_tokens:
            raise ValueError(f"tokenizer.special_tokens must include {END_OF_TEXT!r}, got {self.special_tokens}")
        if len(set(self.special_tokens)) != len(self.special_tokens) or "" in self.special_tokens:
            raise ValueError(f"tokenizer.special_tokens must be distinct and not empty, got {self.special_tokens}")
        fixed, of_what = self.fixed_tokens()
        if self.kind not in _UNSIZED and self.vocab_size < fixed:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} is smaller than {self._base()}: it must be at least {fixed} "
                f"({of_what})"
            )

    def _base(self) -> str:
        has_bytes = self.kind in ("byte_bpe", "unigram", "sentencepiece_bpe")
        return "the byte alphabet" if has_bytes else "what is always there"

    def fixed_tokens(self) -> tuple[int, str]:
        """How many ids a tokenizer of this kind has before it has learned anything, and of what."""
        special = f"{len(self.special_tokens)} special tokens"
        match self.kind:
            case "byte_bpe":
                return 256 + len(self.special_tokens), f"256 bytes and {special}"
            case "unigram" | "sentencepiece_bpe":
                return 257 + len(self.special_tokens), f"256 bytes, <unk> and {special}"
            case "wordpiece":
                return len(BERT_TOKENS) + len(self.special_tokens), f"{' '.join(BERT_TOKENS)} and {special}"
        return 1 + len(self.special_tokens), f"one token and {special}"
