"""The unigram language model on whole texts, with words remembered although their sums are rounded along the text.

SentencePiece adds up scores from the begin of a text with 24 bits, so how a word is cut could depend on all that comes
before it. It hardly ever does: what the best row of tokens is ahead of the next one is mostly far more than rounding
can make. So the best row of a word and its lead are remembered; only where the lead is too small is the word looked at
again, with the sum of what precedes it. The ids are those of looking at everything at once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from math import inf
from typing import NamedTuple

from jaxllm.tokenizers.preparation.metaspace import META
from jaxllm.tokenizers.vocabularies.lattice import Row
from jaxllm.tokenizers.vocabularies.unigram import Unigram

WORD = re.compile(f"{META}+[^{META}]*|[^{META}]+")
"""The parts of a text that no token reaches across, in most vocabularies: a word with the spaces before it."""

# What is longer is seldom seen again.
_LONGEST_WORD = 32
_MOST_WORDS = 1 << 18


class _Word(NamedTuple):
    ids: tuple[int, ...]
    scores: tuple[float, ...]
    total: float
    lead: float
    """how much more than any other the best row has, for each unit that the sums may have been rounded by"""


class TextUnigram(Unigram):
    """A Unigram whose pieces are texts: `encode_piece` is quicker, and gives the same ids."""

    def encode_piece(self, piece: str) -> tuple[int, ...]:
        if not self._has_words:
            return super().encode_piece(piece)
        ids: list[int] = []
        passed: list[tuple[float, ...]] = []  # scores that were not added to `exact` yet
        exact = about = 0.0
        for text in WORD.findall(piece):
            word = self._words.get(text) or self._remember(text)
            # A sum is rounded by up to 2^-24 of itself; four times that much is on the safe side.
            if word is not None and word.lead > -(about + word.total) * 2.0**-22:
                ids += word.ids
                scores = word.scores
                about += word.total
            else:
                exact, passed = self._add(exact, chain.from_iterable(passed)), []
                row = self.segment(text, exact)
                ids += self._ids_of(text, row)
                scores = self._scores_of(text, row)
                about += sum(scores)
            passed.append(scores)
        return tuple(ids)

    @cached_property
    def _words(self) -> dict[str, _Word]:
        return {}

    @cached_property
    def _has_words(self) -> bool:
        """Whether no token reaches across words, and sums never rise, so that a bound of the last one bounds all."""
        across = re.compile(f"[^{META}]{META}")
        tokens = {token: score for token, score in self._scores.items() if score > -inf}
        return META in self._known and not any(across.search(token) or score > 0 for token, score in tokens.items())

    def _remember(self, text: str) -> _Word | None:
        if len(text) > _LONGEST_WORD:
            return None
        (row, total), *others = self.lattice(text).n_best(2)
        lead = total - others[0][1] if others else inf
        # Each of two rows is rounded once for each of its tokens.
        word = _Word(self._ids_of(text, row), self._scores_of(text, row), total, lead / (2 * len(text)))
        if len(self._words) >= _MOST_WORDS:
            self._words.clear()
        self._words[text] = word
        return word

    def _scores_of(self, text: str, row: Row) -> tuple[float, ...]:
        known = self._known
        return tuple(
            [self._scores[text[a:b]] if b - a > 1 or text[a] in known else self._unknown_score for a, b in row]
        )

    def _add(self, total: float, scores: Iterable[float]) -> float:
        """One score after the other, rounded each time."""
        rounded = array("f", [total]) if self.single_precision else [total]
        for score in scores:
            rounded[0] += score
        return rounded[0]
