"""Turns of sources: exact counts at every row, found without what came before."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.data.mixing.apportionment import SHARE_UNIT, apportion, largest_remainder, shares_of, turns
from jaxllm.data.mixing.schedule import plan_mixture
from jaxllm.data.mixing.weights import LLAMA_3, epochs_of, mixture_weights

WEIGHTS = st.lists(st.floats(0, 100), min_size=1, max_size=7).filter(lambda w: sum(w) > 0.01)


def webster(shares, house):
    """The slow twin: seats one by one to the largest share / (2 seats + 1), the first of equals, in exact fractions."""
    seats = [0] * len(shares)
    order = []
    for _ in range(house):
        chosen = max(range(len(shares)), key=lambda s: (Fraction(shares[s], 2 * seats[s] + 1), -s))
        order.append((chosen, seats[chosen]))
        seats[chosen] += 1
    return seats, order


@settings(max_examples=60)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.integers(0, 120))
def test_counts_and_turns_are_websters(shares, rows):
    seats, order = webster(shares, rows + 30)
    sources, numbers = turns(shares, rows, 30)
    assert list(zip(sources.tolist(), numbers.tolist(), strict=True)) == order[rows:]
    assert list(apportion(shares, rows)) == webster(shares, rows)[0]


@given(WEIGHTS, st.integers(0, 2**40), st.integers(0, 500))
def test_far_ahead_the_counts_are_exact_and_the_turns_follow_them(weights, begin, length):
    shares = shares_of(weights)
    before, after = apportion(shares, begin), apportion(shares, begin + length)
    sources, numbers = turns(shares, begin, length)
    assert sum(before) == begin and sum(after) == begin + length
    assert (np.array(before) + np.bincount(sources, minlength=len(shares)) == after).all()
    for source in range(len(shares)):
        assert numbers[sources == source].tolist() == list(range(before[source], after[source]))


@given(WEIGHTS, st.integers(1, 10**6))
def test_counts_stay_within_a_turn_or_so_of_the_weights(weights, rows):
    shares = shares_of(weights)
    exact = np.array(shares) / sum(shares) * rows
    bound = 0.5 + np.array(shares) / sum(shares) * len(shares) / 2
    assert (np.abs(apportion(shares, rows) - exact) <= bound + 1e-6).all()


def test_shares_of_weights():
    assert shares_of([1, 1]) == (SHARE_UNIT // 2, SHARE_UNIT // 2)
    assert shares_of([1e-30, 0, 1])[:2] == (1, 0), "what has a weight comes some time"
    for wrong in ([], [0, 0], [-1, 2], [float("nan")], [float("inf"), 1]):
        with pytest.raises(ValueError, match="weights must be numbers of at least 0"):
            shares_of(wrong)


@given(WEIGHTS, st.integers(0, 1000))
def test_largest_remainder_rounds_up_or_down(weights, rows):
    quotas = np.array(weights) / sum(weights) * rows
    counts = largest_remainder(quotas, rows)
    assert sum(counts) == rows and (np.abs(np.array(counts) - quotas) < 1 + 1e-6).all()


def test_stages_begin_where_they_say_and_count_on():
    mixture = plan_mixture([(0, [3, 1]), (80, [0, 1]), (90, [1, 1])])
    sources, numbers = mixture.turns(0, 120)
    assert np.bincount(sources[:80]).tolist() == [60, 20]
    assert sources[80:90].tolist() == [1] * 10 and np.bincount(sources[90:100]).tolist() == [5, 5]
    for source in (0, 1):
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))
    for rows in range(120):
        assert mixture.counts(rows) == tuple(np.bincount(sources[:rows], minlength=2).tolist())
        again = mixture.turns(rows, 7)
        np.testing.assert_array_equal(again[0], mixture.turns(0, rows + 7)[0][rows:])
    assert mixture.fingerprint() != plan_mixture([(0, [3, 1]), (80, [0, 1]), (91, [1, 1])]).fingerprint()
    assert mixture.turns(5, 0)[0].shape == (0,)


@settings(max_examples=60)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=5), st.data())
def test_limits_are_kept_to_the_row_and_the_rest_goes_to_the_others(weights, data):
    rows, switch = 1000, data.draw(st.integers(1, 999))
    limits = [math.inf, *(data.draw(st.integers(0, 600)) for _ in weights[1:])]
    other = data.draw(st.permutations(weights))
    mixture = plan_mixture([(0, weights), (switch, other)], rows=rows, limits=limits)
    counts = mixture.counts(rows)
    free = np.array(plan_mixture([(0, weights), (switch, other)]).counts(rows))
    assert sum(counts) == rows
    for count, limit, wanted in zip(counts, limits, free, strict=True):
        assert count <= limit
        assert count >= min(wanted, limit) - 3, "none gets less for the limits of others"


def test_limits_lower_a_source_alike_in_every_stage():
    mixture = plan_mixture([(0, [1, 1]), (500, [1, 1])], rows=1000, limits=[100, math.inf])
    assert mixture.counts(500) == (50, 450) and mixture.counts(1000) == (100, 900)


@pytest.mark.parametrize(
    "stages, more, complaint",
    [
        ([], {}, r"must begin at row 0 and follow each other, got rows \[\]"),
        ([(1, [1])], {}, r"must begin at row 0"),
        ([(0, [1]), (0, [1])], {}, r"got rows \[0, 0\]"),
        ([(0, [1]), (5, [1, 2])], {}, "one weight a source"),
        ([(0, [1, 1])], {"rows": 10, "limits": [3, 4]}, "may give 7 rows under their limits .*, the run takes 10"),
        ([(0, [1, 1]), (9, [1, 1])], {"rows": 9, "limits": [3, 99]}, "limits need the number of rows"),
        ([(0, [1, 0]), (9, [1, 1])], {"rows": 20, "limits": [3, 99]}, "source 0 may give 3 rows, but the stages leave"),
    ],
)
def test_mixtures_that_can_not_be(stages, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        plan_mixture(stages, **more)


# Weights


def test_temperature_goes_from_proportional_to_equal():
    sizes = [1e12, 1e9, 1e6]
    np.testing.assert_allclose(mixture_weights(sizes), np.array(sizes) / sum(sizes))
    np.testing.assert_allclose(mixture_weights(sizes, temperature=math.inf), [1 / 3] * 3)
    flat = mixture_weights(sizes, temperature=1 / 0.3)
    np.testing.assert_allclose(flat[1] / flat[0], 1e-3**0.3)
    assert mixture_weights([1e300, 1], temperature=1e-3).tolist() == [1, 0]


def test_upsampling_is_epochs():
    sizes = [900, 100]
    weights = mixture_weights(sizes, upsampling=[1, 3])
    np.testing.assert_allclose(weights, [0.75, 0.25])
    np.testing.assert_allclose(epochs_of(weights, sizes, 1200), [1, 3])


def test_llama_3s_published_mixture():
    assert LLAMA_3 == {"general": 0.5, "math and reasoning": 0.25, "code": 0.17, "multilingual": 0.08}
    assert sum(LLAMA_3.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "sizes, more, complaint",
    [
        ([], {}, "one size and one factor a source"),
        ([1, 0], {}, r"the size of each source must be above 0, got \[1.0, 0.0\]"),
        ([1, 2], {"upsampling": [1]}, "one size and one factor a source"),
        ([1, 2], {"upsampling": [1, -1]}, "the upsampling of each source must be above 0"),
        ([1], {"temperature": 0}, "the temperature must be above 0, got 0"),
    ],
)
def test_weights_that_can_not_be(sizes, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        mixture_weights(sizes, **more)
