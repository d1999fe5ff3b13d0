"""Rules about characters, which need no words."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.data.quality.chain import Filter
from jaxllm.data.quality.text_statistics import TextStatistics


@dataclass(frozen=True)
class Length(Filter):
    """Drops texts too long to look into, and too short for anything; to be put before filters that ask for words.

    Words take about fifteen times the memory of their text, so a file of a gigabyte in one line would take fifteen. For
    JSON and YAML, most of which is data, StarCoder keeps files of 50 to 5000 characters (arXiv:2305.06161).
    """

    min_characters: int = 1
    max_characters: int = 10_000_000
    name: str = "length"

    def reason(self, text: TextStatistics) -> str | None:
        if len(text.text) < self.min_characters:
            return f"fewer than {self.min_characters} characters"
        if len(text.text) > self.max_characters:
            return f"more than {self.max_characters} characters"
        return None


@dataclass(frozen=True)
class Characters(Filter):
    """Drops text that shouts and text that is mostly signs.

    The bound for special characters, those that are no letters, digits or white space, is that of ROOTS (Laurençon et
    al. 2022, arXiv:2303.03915). The one for capitals is no published one; without capitals in a script nothing counts.
    A bound of 0.1, often seen, suits prose alone: it rejects nearly half of all source files.
    """

    max_special: float | None = 0.4
    max_capitals: float | None = 0.3
    """of the letters"""
    name: str = "characters"

    def reason(self, text: TextStatistics) -> str | None:
        if self.max_special is not None and text.fraction_special > self.max_special:
            return f"more than {self.max_special} of the characters are special"
        if self.max_capitals is not None and text.fraction_capitals > self.max_capitals:
            return f"more than {self.max_capitals} of the letters are capitals"
        return None
