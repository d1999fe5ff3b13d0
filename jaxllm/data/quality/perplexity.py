"""Text that a language model of reference text finds surprising (Wenzek et al. 2019, CCNet, arXiv:1911.00359)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from jaxllm.data.quality.chain import Filter, Screening
from jaxllm.data.quality.kneser_ney import load_kneser_ney
from jaxllm.data.quality.text_statistics import TextStatistics


@dataclass(frozen=True)
class Perplexity(Filter):
    """Drops what is above a perplexity; `perplexity_cutoff` finds the one that drops a wanted share."""

    model: str
    """path of a saved KneserNey, read in each process that uses it"""
    max_perplexity: float
    min_perplexity: float = 0.0
    """below it is what repeats the reference, or itself"""
    note: str = ""
    """the name under which metadata keeps the value, "" for none"""
    name: str = "perplexity"

    def screen(self, texts: Sequence[TextStatistics]) -> Screening:
        found = _perplexities(self.model, texts).tolist()
        reasons = [
            f"perplexity above {self.max_perplexity}"
            if value > self.max_perplexity
            else f"perplexity below {self.min_perplexity}"
            if value < self.min_perplexity
            else None
            for value in found
        ]
        return Screening(reasons, notes=[{self.note: round(value, 3)} for value in found] if self.note else None)


def perplexity_cutoff(model: str | Path, texts: Iterable[str], drop: float, *, most: int = 100_000) -> float:
    """The perplexity that the worst share `drop` of the texts is above; the first `most` texts are looked at.

    Raises ValueError for a share that is not between 0 and 1, or no texts.
    """
    if not 0 < drop < 1:
        raise ValueError(f"drop must be between 0 and 1, as 0.2 for the worst fifth, found {drop}")
    sample = [TextStatistics(text) for text in islice(texts, most)]
    if not sample:
        raise ValueError("no texts to find the cutoff on")
    return float(np.quantile(_perplexities(model, sample), 1 - drop))


def _perplexities(path: str | Path, texts: Sequence[TextStatistics]) -> np.ndarray:
    model = load_kneser_ney(path)
    return model.perplexities([text.words(model.words_as).words for text in texts])
