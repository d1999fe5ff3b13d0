"""FineWeb's own rules (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.data.quality.chain import Filter
from jaxllm.data.quality.gopher import duplicates
from jaxllm.data.quality.text_statistics import TextStatistics
from jaxllm.data.quality.words import TERMINAL, WordsAs


@dataclass(frozen=True)
class FineWeb(Filter):
    """Lines that are sentences, not menus: they end with punctuation, are not all short, and don't come twice.

    The paper keeps documents with more than 0.12 of the lines ending in punctuation, at most 0.1 of the characters in
    duplicate lines and less than 0.67 of the lines shorter than 30 characters; its released code, whose values are the
    defaults here, says 0.01 for the second and adds the number of line ends per word.
    """

    min_punctuated_lines: float | None = 0.12
    max_short_lines: float | None = 0.67
    short_line: int = 30
    """characters"""
    max_duplicate_line_characters: float | None = 0.01
    """of the characters that are no line ends"""
    max_lines_per_word: float | None = 0.3
    words_as: WordsAs = "tokens"
    name: str = "fineweb"

    def reason(self, text: TextStatistics) -> str | None:
        lines = [line for line in text.text.split("\n") if line and not line.isspace()]
        if not lines:
            return "empty"
        if self.min_punctuated_lines is not None:
            punctuated = sum(line[-1] in TERMINAL for line in lines)
            if punctuated / len(lines) < self.min_punctuated_lines:
                return f"fewer than {self.min_punctuated_lines} of the lines end with punctuation"
        if self.max_short_lines is not None:
            short = sum(len(line) <= self.short_line for line in lines)
            if short / len(lines) > self.max_short_lines:
                return f"more than {self.max_short_lines} of the lines have at most {self.short_line} characters"
        ends = text.text.count("\n")
        repeated, most = duplicates(lines)[1] / (len(text.text) - ends), self.max_duplicate_line_characters
        if most is not None and repeated > most:
            return f"more than {most} of the characters in duplicate lines"
        most = self.max_lines_per_word
        if most is not None and ends / max(len(text.words(self.words_as)), 1) > most:
            return f"more than {most} line ends a word"
        return None
