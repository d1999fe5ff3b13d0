"""The bytes themselves as ids: no training, no merges, any text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.table import TableTokenizer

FORMAT = 1


class ByteTokenizer(TableTokenizer):
    """Byte b has id b; the special tokens have the ids from 256 on."""

    def __init__(self, special_tokens: Sequence[str] = (END_OF_TEXT,)):
        super().__init__(
            {byte: bytes([byte]) for byte in range(256)}, {name: 256 + i for i, name in enumerate(special_tokens)}
        )

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ByteTokenizer:
        match description:
            case {"special_tokens": [*names]} if all(isinstance(name, str) for name in names):
                return cls(names)
        raise ValueError("expected the field special_tokens, a list of names")

    def description(self) -> dict[str, Any]:
        return {"type": "byte", "format": FORMAT, "special_tokens": list(self.special_tokens)}

    def _encode_text(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes; decode_bytes gives them back."""
        return list(data)
