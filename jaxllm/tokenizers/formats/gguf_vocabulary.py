"""The vocabulary inside a GGUF file, as its fields say it; `gguf_tokenizer` makes a tokenizer of them and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from os import PathLike
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from jaxllm.tokenizers.formats.gguf_metadata import read_metadata


class TokenType(IntEnum):
    """What a token is for, by the number that files have for it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


ROLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # so misspelled in the format
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
"""What files call the id of a token, without "_token_id", by the name that it has elsewhere."""


@dataclass(frozen=True)
class GGUFVocabulary:
    """The fields of a file that begin with "tokenizer."; None where it hasn't got one.

    Raises ValueError if the lists differ in length or an id is out of range.
    """

    model: str
    """gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (Unigram) or bert (WordPiece)"""
    tokens: tuple[str, ...] = field(repr=False)
    pre: str | None = None
    """the name of the way in which text is cut"""
    scores: tuple[float, ...] | None = field(default=None, repr=False)
    token_type: tuple[int, ...] | None = field(default=None, repr=False)
    merges: tuple[str, ...] | None = field(default=None, repr=False)
    roles: Mapping[str, int] = field(default_factory=dict)
    """ids of tokens by their role, as bos_token"""
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool | None = None
    precompiled_charsmap: bytes | None = field(default=None, repr=False)
    chat_template: str | None = field(default=None, repr=False)

    def __post_init__(self):
        size = len(self.tokens)
        for name in ("scores", "token_type"):
            values = getattr(self, name)
            if values is not None and len(values) != size:
                raise ValueError(f"there are {size:,} tokens, but {len(values):,} entries of {name}")
        for kind in set(self.token_type or ()):
            if kind not in set(TokenType):
                raise ValueError(f"there is no type of token {kind}; the types are 1 to {len(TokenType)}")
        for role, i in self.roles.items():
            if role not in ROLES:
                raise ValueError(f"there is no field for {role!r}; the roles are {', '.join(ROLES)}")
            if not 0 <= i < size:
                raise ValueError(f"the {role} has the id {i}, but the ids are 0 .. {size - 1}")

    def ids_of(self, kind: TokenType) -> list[int]:
        """The ids of the tokens of one type."""
        return [i for i, found in enumerate(self.token_type or ()) if found == kind]


def _key(name: str) -> str:
    return "tokenizer.chat_template" if name == "chat_template" else f"tokenizer.ggml.{name}"


def read_gguf_vocabulary(path: str | PathLike[str]) -> GGUFVocabulary:
    """The vocabulary of a file. Raises ValueError for one that is damaged or has none."""
    return vocabulary_of(read_metadata(path), str(path))


def vocabulary_of(settings: Mapping[str, Any], source: str) -> GGUFVocabulary:
    """The vocabulary in the settings of a file. Raises ValueError that begins with `source`."""
    if _key("model") not in settings or _key("tokens") not in settings:
        raise ValueError(f"{source} has no vocabulary: {_key('model')} or {_key('tokens')} is not there")
    types = get_type_hints(GGUFVocabulary)
    try:
        found = {
            name: _typed(_key(name), settings[_key(name)], types[name])
            for name in (one.name for one in fields(GGUFVocabulary))
            if _key(name) in settings
        }
        roles = {
            role: _typed(key, settings[key], int)
            for role, name in ROLES.items()
            if (key := f"tokenizer.ggml.{name}_token_id") in settings
        }
        return GGUFVocabulary(**found, roles=roles)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _typed(key: str, value: Any, expected: Any) -> Any:
    """The value as a field of that type, or of that type and None. Raises ValueError if it is another one."""
    kind = get_args(expected)[0] if isinstance(expected, UnionType) else expected
    if kind is bytes and isinstance(value, list) and all(type(one) is int and -128 <= one < 256 for one in value):
        return bytes(one % 256 for one in value)
    if get_origin(kind) is tuple and isinstance(value, list):
        inner = get_args(kind)[0]
        if all(type(one) is inner for one in value):
            return tuple(value)
    elif type(value) is kind:
        return value
    raise ValueError(f"{key} is not of the expected type {getattr(kind, '__name__', kind)}: {str(value)[:100]}")


def write_gguf_vocabulary(path: str | PathLike[str], vocabulary: GGUFVocabulary, architecture: str = "llama") -> None:
    """Writes a file that has a vocabulary and no tensors. Raises ImportError if the package gguf is not installed."""
    gguf = _package()
    writer = gguf.GGUFWriter(path, architecture)
    add_vocabulary(writer, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def add_vocabulary(writer: Any, vocabulary: GGUFVocabulary) -> None:
    """Adds the fields to a gguf.GGUFWriter, for a file that holds more than the vocabulary."""
    for one in fields(vocabulary):
        value = getattr(vocabulary, one.name)
        match value:
            case None | Mapping():
                pass
            case bool():
                writer.add_bool(_key(one.name), value)
            case str():
                writer.add_string(_key(one.name), value)
            case bytes():
                writer.add_precompiled_charsmap(value)
            case _:
                writer.add_array(_key(one.name), list(value))
    for role, i in vocabulary.roles.items():
        writer.add_uint32(f"tokenizer.ggml.{ROLES[role]}_token_id", i)


def _package():
    try:
        import gguf
    except ImportError as error:
        raise ImportError('writing GGUF files needs the package gguf: pip install "jaxllm[gguf]"') from error
    return gguf
