"""Sampling against its slow twin and against exact distributions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxllm.inference.sampling import SamplingConfig, as_arrays, penalize, sample, truncate

from . import twins

V, VOCAB_SIZE = 40, 37
jitted_sample = jax.jit(sample, static_argnames="vocab_size")
jitted_truncate = jax.jit(truncate)


def logits(rows: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (rows, V)).astype(np.float32)


def draw(logits_V, config, draws, seen=None, vocab_size=VOCAB_SIZE, seed=0):
    """`draws` independent tokens for one row of logits."""
    keys = jax.random.split(jax.random.key(seed), draws)
    seen = np.zeros(V, bool) if seen is None else seen
    rows = (
        jnp.broadcast_to(logits_V, (draws, V)),
        as_arrays([config] * draws),
        jnp.broadcast_to(seen, (draws, V)),
        keys,
    )
    return np.asarray(jitted_sample(*rows, vocab_size=vocab_size))


def test_truncation_keeps_what_the_twin_keeps():
    grid = itertools.product((0.3, 1.0, 1.7), (0, 1, 3, 39, 1000), (0.05, 0.5, 0.9, 1.0), (0.0, 0.1, 1.0))
    configs = [SamplingConfig(t, k, p, m) for t, k, p, m in grid]
    rows = logits(len(configs), seed=1)
    actual = np.asarray(jitted_truncate(rows, as_arrays(configs)))
    for row, config, result in zip(rows, configs, actual, strict=True):
        scaled = row / np.float32(config.temperature)
        expected = twins.min_p(twins.top_p(twins.top_k(scaled, config.top_k), config.top_p), config.min_p)
        assert (np.isfinite(result) == np.isfinite(expected)).all(), config
        np.testing.assert_allclose(twins.softmax(result), twins.softmax(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (SamplingConfig(top_k=2), [0, 1, 2, 3]),  # all that tie with the second
        (SamplingConfig(top_p=0.5), [0, 1, 2]),  # 0.2 each: the fewest that reach 0.5, lowest ids first
        (SamplingConfig(top_k=2, top_p=0.5), [0, 1]),  # 0.25 each after top-k
        (SamplingConfig(min_p=1.0), [0, 1, 2, 3]),
        (SamplingConfig(top_p=1e-6), [0]),
    ],
)
def test_ties(config, kept):
    row = np.log(np.array([[0.2, 0.2, 0.2, 0.2] + [0.2 / 36] * 36], np.float32))
    result = np.asarray(jitted_truncate(row, as_arrays([config])))[0]
    assert np.flatnonzero(np.isfinite(result)).tolist() == kept


def test_top_p_of_one_keeps_the_faintest_tail():
    row = np.zeros((1, V), np.float32)
    row[0, 1:] = -40  # e^-40 is lost when it is added to 1
    both = as_arrays([SamplingConfig(top_k=V, top_p=1.0)])
    assert np.isfinite(np.asarray(jitted_truncate(row, both))).all()


def test_repetition_penalty_is_the_twins():
    rows = logits(2, seed=2)
    seen = np.random.default_rng(3).random((2, V)) < 0.5
    actual = np.asarray(penalize(rows, seen, jnp.array([1.3, 0.7])))
    for i, penalty in enumerate((1.3, 0.7)):
        np.testing.assert_allclose(actual[i], twins.penalize(rows[i], seen[i], penalty), rtol=1e-6)
    assert (actual[0] <= rows[0]).all()
    assert (actual[0] < rows[0])[seen[0]].all()


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(),
        SamplingConfig(temperature=0.7),
        SamplingConfig(top_k=5),
        SamplingConfig(top_p=0.8),
        SamplingConfig(min_p=0.1),
        SamplingConfig(temperature=1.4, top_k=12, top_p=0.9, min_p=0.02, repetition_penalty=1.5),
    ],
)
def test_draws_follow_the_exact_distribution(config):
    """Chi-square of 20,000 draws. By chance one such test in 10,000 would fail, but the seeds are fixed."""
    row, draws = logits(1, seed=4)[0], 20_000
    seen = np.arange(V) % 3 == 0
    expected = twins.distribution(row, seen, config, VOCAB_SIZE) * draws
    counts = np.bincount(draw(row, config, draws, seen), minlength=V)
    assert counts[expected == 0].sum() == 0
    rare = expected < 5  # too few for the approximation: counted together
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_rows_beyond_the_vocabulary_are_never_drawn():
    row = np.full(V, -3.0, np.float32)
    row[VOCAB_SIZE:] = 10
    assert draw(row, SamplingConfig(temperature=2.0), 2000).max() < VOCAB_SIZE
    assert draw(row, SamplingConfig(temperature=0.0), 2).max() < VOCAB_SIZE
    assert draw(row, SamplingConfig(top_k=5, top_p=0.9), 2000).max() < VOCAB_SIZE


def test_greedy_takes_the_likeliest_after_the_penalty_and_nearly_greedy_agrees():
    row = np.zeros(V, np.float32)
    row[[3, 8]] = [5.0, 4.9]
    seen = np.arange(V) == 3
    for temperature in (0.0, 1e-6, 1e-30):
        assert set(draw(row, SamplingConfig(temperature), 50)) == {3}
        assert set(draw(row, SamplingConfig(temperature, repetition_penalty=1.2), 50, seen)) == {8}


def test_each_row_has_its_own_settings():
    """A row's token is the same whatever the rows beside it ask for."""
    configs = [
        SamplingConfig(0.0),
        SamplingConfig(),
        SamplingConfig(top_k=3),
        SamplingConfig(top_p=0.5),
        SamplingConfig(min_p=0.3),
    ]
    rows, keys = logits(5, seed=5), jax.random.split(jax.random.key(6), 5)
    run = functools.partial(jitted_sample, vocab_size=VOCAB_SIZE)
    together = run(rows, as_arrays(configs), np.zeros((5, V), bool), keys)
    alone = [
        run(rows[i : i + 1], as_arrays([configs[i]]), np.zeros((1, V), bool), keys[i : i + 1])[0] for i in range(5)
    ]
    assert together.tolist() == alone
    assert together[0] == rows[0, :VOCAB_SIZE].argmax()


def test_another_temperature_is_no_other_compilation():
    compiled = jax.jit(lambda *arguments: sample(*arguments, vocab_size=VOCAB_SIZE))
    for config in (SamplingConfig(0.0), SamplingConfig(0.5, 3, 0.5, 0.1, 1.2)):
        compiled(logits(1), as_arrays([config]), np.zeros((1, V), bool), jax.random.split(jax.random.key(0), 1))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 .* got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a finite number, got nan"),
        ({"temperature": "hot"}, "temperature must be a finite number, got 'hot'"),
        ({"top_k": -1}, "top_k must be 0 .* got -1"),
        ({"top_k": 1.5}, "top_k must be .* whole number .* got 1.5"),
        ({"top_p": 0}, "top_p must be above 0 .* got 0"),
        ({"top_p": 1.01}, "top_p must be above 0 and at most 1 .* got 1.01"),
        ({"min_p": -0.5}, "min_p must be between 0 .* got -0.5"),
        ({"min_p": 2}, "min_p must be between 0 .* got 2"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0 .* got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**settings)
