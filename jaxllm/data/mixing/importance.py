"""DSIR: selecting documents of a large raw set whose words are distributed like those of a target set.

Each text becomes counts of hashed words and pairs of words. Two bags of these are fitted, one to target texts and one
to raw texts; a document's log importance weight is the sum over its counts of log(p_target / p_raw). The k largest sums
of weight and Gumbel noise are a sample without replacement in proportion to the weights (Xie et al. 2023, "Data
Selection for Language Models via Importance Resampling"; Gumbel top-k: Vieira 2014).
"""

from __future__ import annotations

import hashlib
import heapq
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxllm.data.atomic import new_file
from jaxllm.data.records import texts_of
from jaxllm.data.stages import Outcome, judged

BUCKETS = 10_000  # as in the paper

_WORDS = re.compile(r"\w+|[^\w\s]+")


def hashed_ngrams(text: str, buckets: int = BUCKETS) -> np.ndarray:
    """The bucket of each word and each pair of neighbouring words, lower case; int64, in no particular order."""
    words = np.fromiter((_hash(word) for word in _WORDS.findall(text.lower())), np.uint64)
    pairs = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]
    both = np.concatenate([words, pairs ^ (pairs >> np.uint64(29))])
    return (both % np.uint64(buckets)).astype(np.int64)


@lru_cache(1 << 18)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", errors="surrogatepass")) * 0xBF58476D1CE4E5B9 % 2**64


@dataclass(frozen=True, eq=False)
class ImportanceModel:
    """The log ratio of two bags of hashed words; float64 [buckets]."""

    log_ratio: np.ndarray

    @classmethod
    def fit(
        cls, target: Iterable[str], raw: Iterable[str], *, buckets: int = BUCKETS, smoothing: float = 1.0
    ) -> ImportanceModel:
        """Raises ValueError where either set has no word."""
        counts = {"target": np.full(buckets, smoothing), "raw": np.full(buckets, smoothing)}
        for name, texts in (("target", target), ("raw", raw)):
            for text in texts:
                counts[name] += np.bincount(hashed_ngrams(text, buckets), minlength=buckets)
            if counts[name].sum() <= smoothing * buckets:
                raise ValueError(f"the {name} texts hold no word to learn their distribution from")
        logs = {name: np.log(count / count.sum()) for name, count in counts.items()}
        return cls(logs["target"] - logs["raw"])

    def log_weight(self, text: str) -> float:
        """The log importance weight of a text; 0 for one without words."""
        return float(self.log_ratio[hashed_ngrams(text, len(self.log_ratio))].sum())

    def save(self, path: str | Path) -> None:
        with new_file(Path(path)) as file:
            np.save(file, self.log_ratio)

    @classmethod
    def load(cls, path: str | Path) -> ImportanceModel:
        """Raises ValueError where the file is no saved model."""
        try:
            log_ratio = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: is not a saved importance model: {error}") from error
        if log_ratio.ndim != 1 or log_ratio.dtype != np.float64:
            raise ValueError(
                f"{path}: is not a saved importance model, but an array {log_ratio.dtype}{log_ratio.shape}"
            )
        return cls(log_ratio)


def gumbel(name: str, seed: int) -> float:
    """Gumbel noise that belongs to a document's id, wherever and in whatever order it is looked at."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return -math.log(-math.log(uniform))


def sample_by_importance(
    batches: Iterable[pa.RecordBatch], model: ImportanceModel, count: int, *, seed: int = 0
) -> tuple[set[str], float]:
    """(ids of `count` documents drawn without replacement by their weights, the smallest score among them).

    One pass, with memory for the chosen ids alone. `AboveScore` with this score keeps the same documents, and about as
    many of others of the same kind. Raises ValueError for a count below 1 or beyond the number of documents.
    """
    if count < 1:
        raise ValueError(f"expected to select at least 1 document, got {count}")
    chosen: list[tuple[float, str]] = []
    for name, score in _scores(batches, model, seed):
        if len(chosen) < count:
            heapq.heappush(chosen, (score, name))
        else:
            heapq.heappushpop(chosen, (score, name))
    if len(chosen) < count:
        raise ValueError(f"there are {len(chosen)} documents, fewer than the {count} to be selected")
    return {name for _, name in chosen}, chosen[0][0]


def _scores(batches: Iterable[pa.RecordBatch], model: ImportanceModel, seed: int) -> Iterator[tuple[str, float]]:
    for batch in batches:
        for name, text in zip(batch.column("id").to_pylist(), texts_of(batch), strict=True):
            yield name, model.log_weight(text) + gumbel(name, seed)


@dataclass(frozen=True)
class AboveScore:
    """A stage that keeps the documents whose weight and noise come to at least a score of `sample_by_importance`."""

    model: str
    """file of an ImportanceModel"""
    score: float
    seed: int = 0

    @property
    def name(self) -> str:
        return "importance"

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        model = _opened(self.model)
        reasons: Sequence[str | None] = [
            None if score >= self.score else "less like the target than the score asks"
            for _, score in _scores([batch], model, self.seed)
        ]
        return judged(batch, self.name, reasons)


@lru_cache(4)
def _opened(path: str) -> ImportanceModel:
    return ImportanceModel.load(path)
