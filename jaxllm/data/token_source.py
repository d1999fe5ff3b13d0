"""What packing and loading know of where tokens come from."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class TokenSource(Protocol):
    """Documents 0 .. documents - 1 as ids: a token store, or a file in the layout of another program."""

    @property
    def documents(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def end_of_text(self) -> int:
        """The id that packing puts around each document; the documents' own ids are without it."""

    @property
    def fingerprint(self) -> str:
        """Equal for the same ids in the same order; a saved position in the data refers to it."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64."""

    def lengths_of(self, begin: int, end: int) -> np.ndarray:
        """Of the documents from `begin` to before `end` alone, without looking at the others."""

    def read(self, document: int, begin: int, end: int) -> np.ndarray:
        """Ids `begin` to before `end` of one document, those past its end left out. Many threads read at once."""
