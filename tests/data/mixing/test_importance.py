"""DSIR finds what is like the target; DoReMi's weights against its formula."""

import math
from collections import Counter

import numpy as np
import pytest

from jaxllm.data.mixing.doremi import DomainWeights, excess_losses
from jaxllm.data.mixing.importance import (
    AboveScore,
    ImportanceModel,
    gumbel,
    hashed_ngrams,
    sample_by_importance,
)
from jaxllm.data.records import make_batch, texts_of

WORDS = {
    "cook": ["salt", "pepper", "oven", "bake", "stir", "butter", "flour"],
    "law": ["court", "judge", "appeal", "statute", "clause"],
}


def text(kind, seed, length=40):
    return " ".join(np.random.default_rng(seed).choice(WORDS[kind] + ["the", "of", "a"], length))


@pytest.fixture(scope="module")
def raw():
    kinds = ["cook" if i % 10 == 0 else "law" for i in range(400)]
    texts = [text(kind, i) for i, kind in enumerate(kinds)]
    ids = [f"{kind}/{i}" for i, kind in enumerate(kinds)]
    return make_batch(ids, ["raw"] * 400, texts, [{}] * 400)


@pytest.fixture(scope="module")
def model(raw):
    return ImportanceModel.fit([text("cook", 1000 + i) for i in range(20)], texts_of(raw))


def test_ngrams_are_words_and_pairs():
    grams = hashed_ngrams("To be, or not to be", 2**40)
    words = hashed_ngrams("to", 2**40).tolist() + hashed_ngrams("be", 2**40).tolist()
    counts = Counter(grams.tolist())
    assert len(grams) == 7 + 6
    assert [counts[word] for word in words] == [2, 2]
    assert sorted(counts.values())[-3:] == [2, 2, 2], "the pair 'to be' comes twice too"
    assert hashed_ngrams("", 10).tolist() == [] and len(hashed_ngrams("ü", 10)) == 1
    assert set(hashed_ngrams("be to", 2**40).tolist()) != set(hashed_ngrams("to be", 2**40).tolist())


def test_weights_are_the_sum_of_log_ratios(model):
    one = "salt and butter"
    logs = [model.log_ratio[bucket] for bucket in hashed_ngrams(one)]
    assert model.log_weight(one) == pytest.approx(sum(logs))
    assert model.log_weight(text("cook", 5)) > 0 > model.log_weight(text("law", 5))
    assert model.log_weight("") == 0


def test_the_ratio_is_of_two_distributions():
    same = ImportanceModel.fit(["a b c"], ["a b c"], buckets=50)
    np.testing.assert_allclose(same.log_ratio, 0)
    model = ImportanceModel.fit(["a"], ["b"], buckets=1000, smoothing=0.5)
    a, b = (int(hashed_ngrams(word, 1000)[0]) for word in "ab")
    assert model.log_ratio[a] == pytest.approx(math.log(1.5 / 0.5)) and model.log_ratio[b] == -model.log_ratio[a]


def test_what_is_selected_is_like_the_target(raw, model, tmp_path):
    names, score = sample_by_importance([raw], model, 40)
    assert len(names) == 40 and sum(name.startswith("cook") for name in names) >= 38
    pieces = [raw.slice(start, 70) for start in range(0, 400, 70)]
    assert sample_by_importance(pieces[::-1], model, 40) == (names, score)
    model.save(tmp_path / "model.npy")
    kept = AboveScore(str(tmp_path / "model.npy"), score)(raw)
    assert set(kept.kept.column("id").to_pylist()) == names
    assert set(kept.dropped.column("reason").to_pylist()) == {"less like the target than the score asks"}


def test_the_noise_is_gumbel_and_makes_a_sample():
    noise = np.array([gumbel(f"d{i}", 3) for i in range(20_000)])
    assert noise.mean() == pytest.approx(0.5772, abs=0.03) and noise.var() == pytest.approx(math.pi**2 / 6, abs=0.08)
    # Of one document of weight 3 and one of weight 1 the first comes first three times in four.
    wins = sum(math.log(3) + gumbel("a", seed) > gumbel("b", seed) for seed in range(4000))
    assert wins / 4000 == pytest.approx(0.75, abs=0.025)


def test_bad_input_of_selection(raw, model, tmp_path):
    with pytest.raises(ValueError, match="the target texts hold no word"):
        ImportanceModel.fit([""], ["b"])
    with pytest.raises(ValueError, match="the raw texts hold no word"):
        ImportanceModel.fit(["a"], [])
    with pytest.raises(ValueError, match="there are 400 documents, fewer than the 401"):
        sample_by_importance([raw], model, 401)
    with pytest.raises(ValueError, match="at least 1 document, got 0"):
        sample_by_importance([raw], model, 0)
    (tmp_path / "junk").write_bytes(b"junk")
    for path in (tmp_path / "junk", tmp_path / "none"):
        with pytest.raises(ValueError, match=f"{path.name}: is not a saved importance model"):
            ImportanceModel.load(path)


# DoReMi


def test_an_update_is_the_papers_formula():
    alpha, excess, rate, smoothing = np.array([0.25, 0.75]), np.array([0.3, 0.1]), 1.0, 1e-3
    raised = alpha * np.exp(rate * excess)
    expected = (1 - smoothing) * raised / raised.sum() + smoothing / 2
    got = DomainWeights((0.25, 0.75), (0.0, 0.0)).updated(excess)
    np.testing.assert_allclose(got.current, expected)
    twice = got.updated(excess)
    np.testing.assert_allclose(twice.mean, (expected + np.array(twice.current)) / 2)
    assert twice.updates == 2


def test_the_domain_that_lags_gains_and_none_dies():
    weights = DomainWeights.uniform(3)
    np.testing.assert_allclose(weights.mean, 1 / 3)
    for _ in range(200):
        weights = weights.updated([0.5, 0.1, 0.0])
        assert sum(weights.current) == pytest.approx(1)
    assert weights.current[0] > 0.99 and min(weights.current) >= 1e-3 / 3 - 1e-12
    big = weights.updated([1e4, 0.0, 0.0])
    assert np.isfinite(big.current).all()


def test_excess_is_clipped_by_token_and_averaged_by_domain():
    proxy, reference = np.array([[3.0, 1.0, 2.0, 9.0]]), np.array([[2.0, 2.0, 2.0, 0.0]])
    domain, counted = np.array([[0, 0, 1, 1]]), np.array([[1.0, 1.0, 1.0, 0.0]])
    assert excess_losses(proxy, reference, domain, counted, 3).tolist() == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    "excess, more, complaint",
    [
        ([1.0], {}, "an excess loss for each of 2 domains"),
        ([1.0, float("nan")], {}, "an excess loss for each of 2 domains"),
        ([1.0, 1.0], {"rate": 0}, "rate must be above 0"),
        ([1.0, 1.0], {"smoothing": 1}, r"smoothing in \[0, 1\)"),
    ],
)
def test_updates_that_can_not_be(excess, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        DomainWeights.uniform(2).updated(excess, **more)
    with pytest.raises(ValueError, match="at least one domain, got 0"):
        DomainWeights.uniform(0)
