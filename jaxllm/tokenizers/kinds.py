"""The kinds of tokenizers there are: training one from a config, and loading any."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

from jaxllm.tokenizers import byte, character, storage
from jaxllm.tokenizers.byte import ByteTokenizer
from jaxllm.tokenizers.byte_bpe import ByteBPE
from jaxllm.tokenizers.character import CharacterTokenizer
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.tokenizers.split_patterns import SPLIT_PATTERNS
from jaxllm.tokenizers.train_byte_bpe import train_byte_bpe

# The value of "type" in a file, the newest format of it that this version reads, and what reads it. Byte-level BPE
# has no "type": its file is one that other programs read as well.
_OWN_FORMATS = {
    "character": (character.FORMAT, CharacterTokenizer.from_description),
    "byte": (byte.FORMAT, ByteTokenizer.from_description),
}


def train(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that the config asks for: trained on the texts, or loaded where config.path names one.

    Raises ValueError if the texts are empty or too few for config.vocab_size, and what `load` raises.
    """
    if config.path:
        return load(config.path)
    match config.kind:
        case "byte":
            return ByteTokenizer(config.special_tokens)
        case "character":
            return CharacterTokenizer.train(texts, config.special_tokens)
        case "byte_bpe":
            pattern = SPLIT_PATTERNS[config.split]
            return train_byte_bpe(texts, config.vocab_size, split_pattern=pattern, special_tokens=config.special_tokens)


def load(path: str | PathLike[str]) -> Tokenizer:
    """Reads the tokenizer.json in a directory; `path` may also name the file itself.

    Raises ValueError, naming the file, if there is none, if it is damaged, or of a kind that is not supported.
    """
    file, description = storage.read(path)
    try:
        return _from_description(description)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _from_description(description: dict[str, Any]) -> Tokenizer:
    if "model" in description:
        return ByteBPE.from_description(description)
    kind = description.get("type")
    if not isinstance(kind, str) or kind not in _OWN_FORMATS:
        known = ", ".join(map(repr, _OWN_FORMATS))
        raise ValueError(f"the tokenizer type {kind!r} is unknown; supported are {known}, and byte-level BPE")
    supported, read = _OWN_FORMATS[kind]
    if description.get("format") != supported:
        raise ValueError(
            f"is written in format {description.get('format')!r} of {kind!r}; this version reads {supported}"
        )
    return read(description)
