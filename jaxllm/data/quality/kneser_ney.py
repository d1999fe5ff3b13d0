"""An n-gram language model with interpolated modified Kneser-Ney smoothing.

Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", section 3; what the paper
leaves open is done as in Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation".

The n-grams of each order lie in one sorted array: n-gram (w1 .. wn) has the key `context * V + wn`, where `context` is
the place of (w1 .. wn-1) in the array of the order below. So nothing is hashed, no two n-grams share a key, and all
places of a text are looked up at once, by one binary search per order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from jaxllm.data.quality.model_file import load_arrays, pack_words, save_arrays, unpack_words, version_of
from jaxllm.data.quality.words import WordsAs, split_words

UNKNOWN, BEGIN, END = range(3)
_MARKS = ["<unk>", "<s>", "</s>"]
_KIND = "Kneser-Ney model"


@dataclass(frozen=True, eq=False)
class KneserNey:
    """Probabilities of words, given those before them; a text is one sequence with a begin and an end.

    N orders, V words with the three marks, and M_n n-grams of order n.
    """

    vocabulary: list[str]
    """[V], the marks first"""
    keys: list[np.ndarray]
    """per order from 2 on, int64 [M_n], ascending"""
    log_probabilities: list[np.ndarray]
    """per order, float32 [M_n], natural logarithms; of order 1 [V]"""
    log_backoffs: list[np.ndarray]
    """per order but the last, float32 [M_n]: the share of the shorter context after this one"""
    words_as: WordsAs
    fold: bool
    """whether words are taken in small letters and with 0 for every digit"""

    @property
    def order(self) -> int:
        return len(self.log_probabilities)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Ids of words, without marks; a word that training did not see is UNKNOWN."""
        return [self._ids.get(word, UNKNOWN) for word in _folded(words, self.fold)]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: at for at, word in enumerate(self.vocabulary) if at >= len(_MARKS)}

    def score(self, sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities of sequences of ids, each framed by its marks.

        Returns them one after another, and where each sequence begins in them; there is one more for each than it has
        ids, that of its end.
        """
        words, _, starts = _framed(sequences)
        log_p = self.log_probabilities[0][words].astype(np.float64)
        nodes = words
        for n in range(2, self.order + 1):
            # Contexts that reach back into the sequence before are among those that training never saw.
            at = np.flatnonzero(nodes[: len(words) - n + 1] >= 0)
            contexts, last = nodes[at], at + n - 1
            found = _search(self.keys[n - 2], contexts * len(self.vocabulary) + words[last])
            log_p[last] = np.where(
                found >= 0, self.log_probabilities[n - 1][found], log_p[last] + self.log_backoffs[n - 2][contexts]
            )
            nodes = np.full(len(words), -1, np.int64)
            nodes[at] = found
        scored = np.delete(log_p, starts)
        return scored, starts - np.arange(len(starts))

    def perplexities(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """float64 [texts]: exp of the mean negative log probability of the words of each text, and of its end."""
        if not len(texts):
            return np.zeros(0)
        log_p, starts = self.score([self.encode(words) for words in texts])
        lengths = np.diff(np.append(starts, len(log_p)))
        return np.exp(-np.add.reduceat(log_p, starts) / lengths)

    def save(self, path: str | Path) -> None:
        """Writes one file, whole or not at all."""
        arrays = {f"keys_{n}": keys for n, keys in enumerate(self.keys, start=2)}
        arrays |= {f"log_probabilities_{n}": log_p for n, log_p in enumerate(self.log_probabilities, start=1)}
        arrays |= {f"log_backoffs_{n}": log_b for n, log_b in enumerate(self.log_backoffs, start=1)}
        arrays |= {"vocabulary": pack_words(self.vocabulary), "words_as": np.array(self.words_as)}
        save_arrays(path, _KIND, arrays | {"fold": np.array(self.fold), "order": np.array(self.order)})


def load_kneser_ney(path: str | Path) -> KneserNey:
    """Reads a saved model; a process that asks again for the same file gets the same model.

    Raises ModelFileError for a file that is missing, damaged, or of another kind.
    """
    return _load(str(path), version_of(path))


@lru_cache(8)
def _load(path: str, version: int) -> KneserNey:
    arrays = load_arrays(path, _KIND)
    order = int(arrays["order"])
    return KneserNey(
        vocabulary=unpack_words(arrays["vocabulary"]),
        keys=[arrays[f"keys_{n}"] for n in range(2, order + 1)],
        log_probabilities=[arrays[f"log_probabilities_{n}"] for n in range(1, order + 1)],
        log_backoffs=[arrays[f"log_backoffs_{n}"] for n in range(1, order)],
        words_as=str(arrays["words_as"]),
        fold=bool(arrays["fold"]),
    )


def train_kneser_ney(
    texts: Iterable[str],
    *,
    order: int = 3,
    min_count: int = 1,
    discounts: Sequence[float] | None = None,
    words_as: WordsAs = "tokens",
    fold: bool = True,
) -> KneserNey:
    """A model of the texts; all their words are in memory, about 50 bytes a word for each order.

    Words that occur fewer than min_count times are UNKNOWN. That makes unknown words probable, and text of which no
    word is known: leave it at 1 for a filter that is to find such text. `discounts` are those for n-grams that occur
    once, twice, and more often; None estimates them for each order.

    Raises ValueError if there are no words, or too few to estimate discounts.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, found {order}")
    sequences = [_folded(split_words(text, words_as), fold) for text in texts]
    counts = Counter(chain.from_iterable(sequences))
    if not counts:
        raise ValueError("the reference texts have no words; a model needs some")
    known = sorted(word for word, count in counts.items() if count >= min_count)
    ids = {word: at for at, word in enumerate(known, start=len(_MARKS))}
    words, room, _ = _framed([[ids.get(word, UNKNOWN) for word in sequence] for sequence in sequences])
    vocabulary = [*_MARKS, *known]
    tables = _count(words, room, order, len(vocabulary))
    log_probabilities, log_backoffs = _smooth(tables, len(vocabulary), discounts)
    return KneserNey(vocabulary, [table.keys for table in tables[1:]], log_probabilities, log_backoffs, words_as, fold)


def _folded(words: Sequence[str], fold: bool) -> list[str]:
    return " ".join(words).lower().translate(_DIGITS).split(" ") if fold and words else list(words)


_DIGITS = str.maketrans("123456789", "000000000")


def _framed(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sequences with their marks in one array, how many places each has to the end of its own, and their starts."""
    lengths = np.array([len(sequence) + 2 for sequence in sequences], np.int64)
    ends = np.cumsum(lengths)
    words = np.empty(ends[-1], np.int64)
    words[np.delete(np.arange(len(words)), np.concatenate((ends - lengths, ends - 1)))] = np.fromiter(
        chain.from_iterable(sequences), np.int64, len(words) - 2 * len(lengths)
    )
    words[ends - lengths], words[ends - 1] = BEGIN, END
    return words, np.repeat(ends, lengths) - np.arange(len(words)), ends - lengths


def _search(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key is, -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


@dataclass(frozen=True)
class _Ngrams:
    """The M different n-grams of one order; each array has M entries."""

    keys: np.ndarray
    counts: np.ndarray
    suffixes: np.ndarray
    """places of the n-grams without their first word in the order below"""
    at_begin: np.ndarray
    """which begin with BEGIN"""


def _count(words: np.ndarray, room: np.ndarray, order: int, size: int) -> list[_Ngrams]:
    ones = np.arange(size)
    tables = [_Ngrams(ones, np.bincount(words, minlength=size), np.zeros_like(ones), ones == BEGIN)]
    nodes = words
    for n in range(2, order + 1):
        at = np.flatnonzero(room >= n)
        keys, first, which, counts = np.unique(
            nodes[at] * size + words[at + n - 1], return_index=True, return_inverse=True, return_counts=True
        )
        first = at[first]
        tables.append(_Ngrams(keys, counts, nodes[first + 1], words[first] == BEGIN))
        nodes = np.full(len(words), -1, np.int64)
        nodes[at] = which
    return tables


def _smooth(tables: list[_Ngrams], size: int, given: Sequence[float] | None) -> tuple[list, list]:
    """Log probabilities of all orders, and log backoffs of all but the last."""
    log_probabilities, log_backoffs = [], []
    shorter = np.full(1, 1 / (size - 1))
    for n, table in enumerate(tables, start=1):
        counts = table.counts
        if n < len(tables):
            # A shorter n-gram counts by how many different words it follows; at the beginning it follows none.
            followed = np.bincount(tables[n].suffixes, minlength=len(counts))
            counts = np.where(table.at_begin, counts, followed)
        if n == 1:
            counts[BEGIN] = 0
        by_count = _discounts(counts, n, given)
        discount = by_count[np.minimum(counts, 3)]
        contexts = table.keys // size if n > 1 else np.zeros_like(table.keys)
        total = np.bincount(contexts, counts, len(shorter))
        left = np.bincount(contexts, discount, len(shorter))
        backoff = np.where(total > 0, left, 1) / np.where(total > 0, total, 1)
        probability = (counts - discount) / total[contexts] + backoff[contexts] * shorter[table.suffixes]
        if n == 1:
            probability[BEGIN] = 1  # it is given, never predicted
        with np.errstate(divide="ignore"):  # discounts of nothing leave nothing for the unknown
            log_probabilities.append(np.log(probability).astype(np.float32))
            log_backoffs += [np.log(backoff).astype(np.float32)] if n > 1 else []
        shorter = probability
    return log_probabilities, log_backoffs


def _discounts(counts: np.ndarray, n: int, given: Sequence[float] | None) -> np.ndarray:
    """What is taken from n-grams that occur 0, 1, 2, and 3 or more times (Chen and Goodman, equation 17)."""
    if given is not None:
        return np.array([0.0, *given])
    _, *t = np.bincount(np.minimum(counts, 5), minlength=6)[:5].tolist()
    if min(t) > 0:
        y = t[0] / (t[0] + 2 * t[1])
        found = [k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3)]
        if all(0 <= d <= k for k, d in enumerate(found, start=1)):
            return np.array([0.0, *found])
    raise ValueError(
        f"the reference is too small to estimate discounts: {t} different {n}-grams occur 1, 2, 3 and 4 times; "
        "give it more text, or give discounts, as (0.5, 1, 1.5)"
    )
