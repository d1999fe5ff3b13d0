"""The rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2) and mC4 (Xue et al. 2021, arXiv:2010.11934)."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jaxllm.data.quality.chain import Filter, Screening
from jaxllm.data.quality.text_statistics import TextStatistics
from jaxllm.data.quality.words import count_sentences

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


@dataclass(frozen=True)
class C4Quality(Filter):
    """Removes lines that are no sentences or about the site, and pages of which too little is left.

    The kept lines are the new text, stripped, without Wikipedia's citation marks. Counts the lines kept and removed, by
    cause. The limits that the paper does not name are those of its released code.
    """

    line_ends: tuple[str, ...] = (".", "?", "!", '"', "'")
    """a line must end with one of these and not with "..."; () lets all lines pass"""
    min_words_per_line: int | None = 3
    max_word_length: int | None = 1000
    """characters between white space, in a line that is kept"""
    drop_lorem_ipsum: bool = True
    remove_javascript: bool = True
    """lines that mention it, as they do to ask for it"""
    drop_curly_brackets: bool = True
    """pages with one in a line that was to be kept so far"""
    policy_phrases: tuple[str, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    """in small letters; a line with one of these is removed"""
    remove_citations: bool = True
    min_sentences: int | None = 5
    """in the lines that are kept"""
    name: str = "c4 quality"

    def screen(self, texts: Sequence[TextStatistics]) -> Screening:
        counts: Counter[str] = Counter()
        pages = [self._page(text, counts) for text in texts]
        return Screening([reason for reason, _ in pages], [text for _, text in pages], counts)

    def _page(self, text: TextStatistics, counts: Counter[str]) -> tuple[str | None, str]:
        """The reason to drop a page and its text; counts the lines of a page that is kept."""
        kept, sentences = [], 0
        lines: Counter[str] = Counter()
        for line in text.lines:
            line = line.strip()
            words = line.split()
            if self.remove_citations and "[" in line:
                line = _CITATION.sub("", line)
            lower = line.lower()
            if why := self._form(line, words):
                lines[why] += 1
            elif self.drop_lorem_ipsum and "lorem ipsum" in lower:
                return "lorem ipsum", text.text
            elif self.remove_javascript and "javascript" in lower:
                lines["lines removed, about javascript"] += 1
            elif self.drop_curly_brackets and "{" in line:
                return "curly bracket", text.text
            elif any(phrase in lower for phrase in self.policy_phrases):
                lines["lines removed, about policies"] += 1
            else:
                kept.append(line)
                # Once there are enough there is no need to count on.
                if self.min_sentences is not None and sentences < self.min_sentences:
                    sentences += count_sentences(line)
        if self.min_sentences is not None and sentences < self.min_sentences:
            return f"fewer than {self.min_sentences} sentences", text.text
        lines["lines kept"] += len(kept)
        counts.update(lines)
        return None, "\n".join(kept).strip()

    def _form(self, line: str, words: list[str]) -> str | None:
        """Why a line is removed, of what can be told by its words and its end."""
        too_long = self.max_word_length
        if too_long is not None and len(line) > too_long and any(len(word) > too_long for word in words):
            return f"lines removed, a word of more than {too_long} characters"
        if self.line_ends and (not line.endswith(self.line_ends) or line.endswith("...")):
            return "lines removed, no punctuation at its end"
        if self.min_words_per_line is not None and len(words) < self.min_words_per_line:
            return f"lines removed, fewer than {self.min_words_per_line} words"
        return None


@dataclass(frozen=True)
class C4Paragraphs(Filter):
    """Pages with enough long lines, the rule of mC4 for all its languages."""

    min_paragraphs: int = 3
    min_characters: int = 200
    name: str = "c4 paragraphs"

    def reason(self, text: TextStatistics) -> str | None:
        lengths = heapq.nlargest(self.min_paragraphs, map(len, text.text.split("\n")))
        if len(lengths) < self.min_paragraphs or lengths[-1] < self.min_characters:
            return f"fewer than {self.min_paragraphs} paragraphs of {self.min_characters} characters"
        return None
