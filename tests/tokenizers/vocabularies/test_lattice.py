from collections import Counter
from math import exp, inf, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.tokenizers.vocabularies.lattice import Lattice


@st.composite
def lattices(draw) -> Lattice:
    size = draw(st.integers(1, 6))
    edges = []
    for begin in range(size):
        ends = draw(st.sets(st.integers(begin + 1, size))) | {begin + 1}
        edges.append([(end, draw(st.integers(-5, 0)) / 2) for end in sorted(ends)])
    return Lattice(edges)


@given(lattices(), st.integers(1, 40))
def test_the_best_rows_are_those_of_all(lattice, n):
    # Of equal ones the one with the longest last token comes first, then the one before it.
    everything = sorted(lattice.all_rows(), key=lambda found: (-found[1], [begin for begin, _ in found[0][::-1]]))
    assert lattice.n_best(n) == everything[:n]


@given(lattices(), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_the_total_is_the_sum_over_all(lattice, alpha):
    total = log(sum(exp(alpha * score) for _, score in lattice.all_rows()))
    assert lattice.log_total(alpha) == pytest.approx(total)


def _lattice() -> Lattice:
    return Lattice([[(1, -1.0), (2, -1.5), (3, -2.5)], [(2, -0.7), (3, -1.2)], [(3, -0.4)]])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_rows_are_drawn_as_often_as_they_should(alpha):
    lattice, random, draws = _lattice(), Random(3), 20_000
    found = Counter(str(lattice.sample(random, alpha)) for _ in range(draws))
    _is_close(found, {str(row): exp(alpha * score) for row, score in lattice.all_rows()}, draws)


def test_of_the_best_rows_too():
    lattice, random, draws = _lattice(), Random(4), 20_000
    found = Counter(str(lattice.sample_n_best(2, random, 0.5)) for _ in range(draws))
    _is_close(found, {str(row): exp(0.5 * score) for row, score in lattice.n_best(2)}, draws)


def _is_close(found: Counter[str], weights: dict[str, float], draws: int) -> None:
    """Pearson's chi-squared; with up to 3 degrees of freedom 16.3 is exceeded once in a thousand times."""
    total = sum(weights.values())
    assert found.keys() <= weights.keys()
    expected = {row: draws * weight / total for row, weight in weights.items()}
    assert sum((found[row] - expected[row]) ** 2 / expected[row] for row in weights) < 16.3


def test_without_a_character():
    lattice = Lattice([])
    assert lattice.n_best(3) == [([], 0.0)]
    assert lattice.sample(Random(0)) == [] and lattice.log_total() == 0


def test_without_a_way():
    assert Lattice([[(2, -1.0)], []]).log_total() == -1.0
    assert Lattice([[(1, -1.0)], []]).log_total() == -inf


@pytest.mark.parametrize("alpha", [-0.1, inf, float("nan")])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="^alpha must be a number from 0 on, got"):
        _lattice().sample(Random(0), alpha)


def test_no_best_rows():
    with pytest.raises(ValueError, match="^n must be at least 1, got 0$"):
        _lattice().n_best(0)
