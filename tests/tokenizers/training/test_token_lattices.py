from collections import Counter
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.training.token_lattices import Edges, TokenLattices
from jaxllm.tokenizers.vocabularies.lattice import Lattice

_TOKENS = ["a", "b", "ab", "ba", "aba", "bb"]
_SCORES = np.log([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])


def _edges(word: str) -> list[list[tuple[int, int]]]:
    """For each place the ends and the numbers of the tokens that begin there."""
    return [
        [(begin + len(token), i) for i, token in enumerate(_TOKENS) if word.startswith(token, begin)]
        for begin in range(len(word))
    ]


def _lattices(words: dict[str, int]) -> TokenLattices:
    edges, depths, first, last = [], [], [], []
    for word in words:
        offset = len(depths)
        first.append(offset)
        last.append(offset + len(word))
        depths += range(len(word) + 1)
        edges += [(offset + a, offset + b, i) for a, tokens in enumerate(_edges(word)) for b, i in tokens]
    arrays = Edges(*np.array(edges, np.int64).reshape(-1, 3).T)
    return TokenLattices(arrays, *map(np.array, (depths, first, last)), np.array(list(words.values()), float))


_WORDS = st.dictionaries(st.text("ab", min_size=1, max_size=7), st.integers(1, 4), min_size=1, max_size=5)


def _expected(words: dict[str, int], tokens: set[int]) -> tuple[np.ndarray, float]:
    """The definition: every way to cut every word, with its probability."""
    counts, likelihood = np.zeros(len(_TOKENS)), 0.0
    for word, number in words.items():
        scored = [[(b, _SCORES[i]) for b, i in ends if i in tokens] for ends in _edges(word)]
        rows = Lattice(scored).all_rows()
        total = sum(exp(score) for _, score in rows)
        likelihood += number * log(total)
        for row, score in rows:
            for i, times in Counter(_TOKENS.index(word[a:b]) for a, b in row).items():
                counts[i] += number * times * exp(score) / total
    return counts, likelihood


@given(_WORDS)
def test_expectations_are_those_of_all_ways(words):
    counts, likelihood = _lattices(words).expect(_SCORES)
    expected, total = _expected(words, set(range(len(_TOKENS))))
    np.testing.assert_allclose(counts, expected, rtol=1e-9, atol=1e-12)
    assert likelihood == pytest.approx(total)
    np.testing.assert_allclose(_lattices(words).totals(_SCORES) @ list(words.values()), total)


@given(_WORDS)
def test_tokens_can_be_left_out(words):
    lattices = _lattices(words)
    lattices.keep(np.array([0, 1, -1, 2, -1, 3]))
    counts, likelihood = lattices.expect(_SCORES[[0, 1, 3, 5]])
    expected, total = _expected(words, {0, 1, 3, 5})
    np.testing.assert_allclose(counts, expected[[0, 1, 3, 5]], rtol=1e-9, atol=1e-12)
    assert likelihood == pytest.approx(total)


def test_a_very_long_word_is_no_matter():
    counts, likelihood = _lattices({"ab" * 3000: 1}).expect(_SCORES)
    assert counts @ [len(token) for token in _TOKENS] == pytest.approx(6000)
    assert -3000 < likelihood < -2000
