"""The tokens that stand for single bytes where a vocabulary is one of characters: "<0x00>" to "<0xFF>"."""

from __future__ import annotations

import re

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_of(token: str) -> bytes | None:
    """The byte that a token stands for, None if it stands for none."""
    found = _BYTE.fullmatch(token)
    return bytes.fromhex(found[1]) if found else None
