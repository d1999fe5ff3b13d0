"""Bounds in characters, to be put before filters that split a text into words."""

from __future__ import annotations

from dataclasses import dataclass

from jaxllm.data.quality.chain import Filter
from jaxllm.data.quality.text_statistics import TextStatistics


@dataclass(frozen=True)
class Length(Filter):
    """Drops texts too long to look into, and too short for anything.

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
