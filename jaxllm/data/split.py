"""Which documents are kept for validation."""

from __future__ import annotations

import hashlib
from typing import Literal


def split_of(name: str, validation_fraction: float) -> Literal["train", "validation"]:
    """The part of the data that a document of this name belongs to.

    It depends on nothing else, so a document stays where it is when others come or go, and raising the fraction only
    moves documents out of "train". About `validation_fraction` (0 to 1) of all names are in "validation": those for
    which the first 8 bytes of the name's BLAKE2b digest, read as a big-endian number, are below that fraction of 2**64.

    Raises ValueError if the fraction lies outside 0 .. 1.
    """
    if not 0 <= validation_fraction <= 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
    digest = hashlib.blake2b(name.encode("utf-8", errors="surrogatepass")).digest()
    return "validation" if int.from_bytes(digest[:8], "big") < validation_fraction * 2**64 else "train"
