"""White space as a visible symbol, so that a piece can begin with it and nothing is lost between words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jaxllm.tokenizers.stages import Cut, Rewrite, Span

META = "▁"
"""U+2581, which SentencePiece writes for a space."""


@dataclass(frozen=True)
class Metaspace:
    """Writes spaces as the symbol, and one more before the text if there is none, as Hugging Face's "Metaspace" does.

    It is the first half of that step; the second, where split is true, is `MetaspaceSplit`: `stages` gives both.
    """

    replacement: str = META
    prepend_scheme: Literal["always", "first", "never"] = "always"
    """before which texts a symbol is put: all pieces, only the piece that begins the text, or none"""
    split: bool = True

    def __post_init__(self):
        if len(self.replacement) != 1:
            raise ValueError(f"Metaspace's replacement must be one character, got {self.replacement!r}")
        if self.prepend_scheme not in ("always", "first", "never"):
            raise ValueError(
                f'Metaspace\'s prepend_scheme must be "always", "first" or "never", got {self.prepend_scheme!r}'
            )

    def stages(self) -> tuple[Rewrite | Cut, ...]:
        """The steps of a pipeline that do the work of both halves."""
        return (self, MetaspaceSplit(self.replacement)) if self.split else (self,)

    def __call__(self, text: str) -> str:
        text = text.replace(" ", self.replacement)
        return self.replacement + text if self._prepends(text) else text

    def aligned(self, text: str) -> tuple[str, list[Span]]:
        spans = [(i, i + 1) for i in range(len(text))]
        text = text.replace(" ", self.replacement)
        if self._prepends(text):
            return self.replacement + text, [(0, 0), *spans]
        return text, spans

    def _prepends(self, text: str) -> bool:
        return self.prepend_scheme != "never" and bool(text) and not text.startswith(self.replacement)


@dataclass(frozen=True)
class MetaspaceSplit:
    """Cuts before each symbol."""

    replacement: str = META

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        symbol = re.escape(self.replacement)
        return re.compile(f"{symbol}[^{symbol}]*|[^{symbol}]+")

    def __call__(self, text: str) -> list[str]:
        return self._pattern.findall(text)

    def spans(self, text: str) -> list[Span]:
        return [match.span() for match in self._pattern.finditer(text)]
