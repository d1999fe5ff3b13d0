"""A linear classifier of texts by their hashed n-grams of words, for educational quality or any other label.

As fastText (Joulin et al. 2016, arXiv:1607.01759), it knows nothing of a text but which short n-grams occur in it, and
learns in seconds. Unlike it, each n-gram has a weight for each label and no vector in between, so that training is
convex; counts are dampened, and texts have length one whatever their number of words.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from jaxllm.data.quality.chain import Filter, Screening
from jaxllm.data.quality.model_file import load_arrays, pack_words, save_arrays, unpack_words, version_of
from jaxllm.data.quality.text_statistics import TextStatistics
from jaxllm.data.quality.words import WordsAs

_KIND = "linear classifier"
_BIAS = 0  # the bucket that every text has
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads neighbouring numbers


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Probabilities of C labels from n-grams of up to `ngrams` words in B buckets."""

    labels: list[str]
    weights: np.ndarray
    """float32 [B, C]; B is a power of two"""
    ngrams: int
    words_as: WordsAs

    def probabilities(self, texts: Sequence[TextStatistics]) -> np.ndarray:
        """float64 [texts, C]"""
        if not len(texts):
            return np.zeros((0, len(self.labels)))
        return _softmax(_logits(self.weights, *_features(texts, self)))

    def save(self, path: str | Path) -> None:
        """Writes one file, whole or not at all; of the weights only those that are not zero."""
        used = np.flatnonzero(self.weights.any(axis=1))
        arrays = {"labels": pack_words(self.labels), "used": used, "weights": self.weights[used]}
        arrays |= {"buckets": np.array(len(self.weights)), "ngrams": np.array(self.ngrams)}
        save_arrays(path, _KIND, arrays | {"words_as": np.array(self.words_as)})


def load_linear_classifier(path: str | Path) -> LinearClassifier:
    """Reads a saved classifier; a process that asks again for the same file gets the same one.

    Raises ModelFileError for a file that is missing, damaged, or of another kind.
    """
    return _load(str(path), version_of(path))


@lru_cache(8)
def _load(path: str, version: int) -> LinearClassifier:
    arrays = load_arrays(path, _KIND)
    labels = unpack_words(arrays["labels"])
    weights = np.zeros((int(arrays["buckets"]), len(labels)), np.float32)
    weights[arrays["used"]] = arrays["weights"]
    return LinearClassifier(labels, weights, int(arrays["ngrams"]), str(arrays["words_as"]))


def train_linear_classifier(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    ngrams: int = 2,
    buckets: int = 2**20,
    epochs: int = 10,
    learning_rate: float = 0.5,
    batch_size: int = 64,
    seed: int = 0,
    words_as: WordsAs = "tokens",
) -> LinearClassifier:
    """Logistic regression by AdaGrad (Duchi et al. 2011) in shuffled batches; the same arguments give the same weights.

    Raises ValueError if there are not as many labels as texts, fewer than two different labels, or a number of buckets
    that is no power of two.
    """
    if len(texts) != len(labels):
        raise ValueError(f"expected a label for each text, found {len(texts)} texts and {len(labels)} labels")
    names = sorted(set(labels))
    if len(names) < 2:
        raise ValueError(f"a classifier needs two or more different labels, found {names}")
    if buckets < 2 or buckets & (buckets - 1):
        raise ValueError(f"buckets must be a power of two, found {buckets}")
    model = LinearClassifier(names, np.zeros((buckets, len(names)), np.float32), ngrams, words_as)
    wanted = np.array([names.index(label) for label in labels])
    squares = np.full(model.weights.shape, 1e-8, np.float32)
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(texts))
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            columns, values, starts = _features([TextStatistics(texts[i]) for i in batch], model)
            error = _softmax(_logits(model.weights, columns, values, starts))
            error[np.arange(len(batch)), wanted[batch]] -= 1
            lengths = np.diff(np.append(starts, len(columns)))
            used, which = np.unique(columns, return_inverse=True)
            rows = np.repeat(np.arange(len(batch)), lengths)
            by_label = [np.bincount(which, values * e[rows], len(used)) for e in error.T / len(batch)]
            gradient = np.stack(by_label, axis=1).astype(np.float32)
            squares[used] += gradient**2
            model.weights[used] -= learning_rate * gradient / np.sqrt(squares[used])
    return model


def _features(texts: Sequence[TextStatistics], model: LinearClassifier) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The buckets of all texts one after another, the weight of each in its text, and where each text begins."""
    words = [text.words(model.words_as).words for text in texts]
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    hashes = np.fromiter(map(_hash, chain.from_iterable(words)), np.uint64, lengths.sum())
    owner = np.repeat(np.arange(len(words), dtype=np.int64), lengths)
    size = len(model.weights)
    shift = np.uint64(64 - (size.bit_length() - 1))
    found = [np.arange(len(words)) * size + _BIAS]
    ngram = hashes
    for n in range(1, model.ngrams + 1):
        if n > 1:
            ngram = (ngram[:-1] ^ (ngram[:-1] >> np.uint64(29))) * _MULTIPLIER + hashes[n - 1 :]
        within = owner[: len(ngram)] == owner[n - 1 :]
        bucket = ((ngram * _MULTIPLIER) >> shift).astype(np.int64)
        found.append((owner[: len(ngram)] * size + bucket)[within])
    keys, counts = np.unique(np.concatenate(found), return_counts=True)
    rows = keys // size
    values = 1 + np.log(counts)
    values /= np.sqrt(np.bincount(rows, values**2))[rows]
    return keys % size, values, np.searchsorted(rows, np.arange(len(words)))


@lru_cache(2**17)
def _hash(word: str) -> int:
    """The same in every process, unlike Python's own; capitals count as small letters."""
    return zlib.crc32(word.lower().encode())


def _logits(weights: np.ndarray, columns: np.ndarray, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(weights[columns] * values[:, None], starts, axis=0)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Classified(Filter):
    """Keeps documents that a trained classifier gives a label with at least this probability."""

    model: str
    """path of a saved LinearClassifier, read in each process that uses it"""
    label: str
    min_probability: float = 0.5
    note: str = ""
    """the name under which metadata keeps the probability, "" for none; with min_probability=0 this only takes notes"""
    name: str = "classifier"

    def screen(self, texts: Sequence[TextStatistics]) -> Screening:
        model = load_linear_classifier(self.model)
        if self.label not in model.labels:
            raise ValueError(f"{self.model}: has no label {self.label!r}; its labels are {model.labels}")
        found = model.probabilities(texts)[:, model.labels.index(self.label)].tolist()
        low = f"probability of {self.label} below {self.min_probability}"
        return Screening(
            [low if value < self.min_probability else None for value in found],
            notes=[{self.note: round(value, 4)} for value in found] if self.note else None,
        )
