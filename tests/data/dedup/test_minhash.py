import random

import numpy as np
import pyarrow as pa
import pytest

from jaxllm.data.dedup import minhash
from jaxllm.data.dedup.minhash import (
    MinHash,
    band_keys,
    candidate_probability,
    jaccard,
    signatures,
    signatures_one_by_one,
    steepest_similarity,
)
from jaxllm.data.dedup.shingles import Shingling, shingles_of
from jaxllm.data.dedup.words import bytes_of

from .small_engine import batch_of, left, resolved

WORDS = Shingling(1)


def column(texts):
    return pa.array(texts, pa.large_string())


def pair_of(similarity: float, size: int, chance: random.Random) -> tuple[str, str]:
    """Two texts whose sets of words have this Jaccard similarity."""
    shared = round(similarity * size)
    names = [f"{chance.getrandbits(60):x}" for _ in range(size)]
    mine = names[: shared + (size - shared) // 2]
    return " ".join(mine), " ".join(names[:shared] + names[len(mine) :])


def edited(text: str, rate: float, chance: random.Random) -> str:
    return " ".join(f"new{chance.getrandbits(40)}" if chance.random() < rate else word for word in text.split())


def article(chance: random.Random, words: int = 300) -> str:
    return " ".join(f"w{chance.randrange(5000)}" for _ in range(words))


def test_signatures_are_those_of_the_slow_twin():
    chance = random.Random(0)
    texts = [article(chance, length) for length in (1, 4, 5, 40, 300)] + ["", "!", "你好世界，再见"]
    found = signatures(column(texts), Shingling(3), 24)
    shingles, offsets = shingles_of(*bytes_of(column(texts)), Shingling(3))
    sets = [shingles[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    filled = [row for row, one in enumerate(sets) if one]
    assert found[filled].tolist() == signatures_one_by_one([sets[row] for row in filled], 24)
    empty = [row for row, one in enumerate(sets) if not one]
    assert empty == [5, 6] and (found[empty] == np.iinfo(np.uint64).max).all()


@pytest.mark.parametrize("size", [16, 400])
def test_the_estimate_errs_by_one_over_the_root_of_the_permutations(size):
    """The agreement of n permutations is binomial: its standard deviation is sqrt(s (1 - s) / n)."""
    chance, permutations = random.Random(1), 128
    for similarity in (0.25, 0.5, 0.75):
        texts = [text for _ in range(300) for text in pair_of(similarity, size, chance)]
        found = signatures(column(texts), WORDS, permutations)
        estimates = (found[::2] == found[1::2]).mean(axis=1)
        true = round(similarity * size) / size
        assert abs(estimates.mean() - true) < 0.01
        assert estimates.std() == pytest.approx((true * (1 - true) / permutations) ** 0.5, rel=0.15)
    assert (0.25 / permutations) ** 0.5 < 1 / permutations**0.5


def test_datasketch_errs_as_much():
    datasketch = pytest.importorskip("datasketch", reason="datasketch is not installed (make parity)")
    chance, permutations = random.Random(2), 128
    ours, theirs = [], []
    for _ in range(60):
        one, other = pair_of(0.5, 200, chance)
        found = signatures(column([one, other]), WORDS, permutations)
        ours.append((found[0] == found[1]).mean())
        sketches = [datasketch.MinHash(permutations) for _ in range(2)]
        for sketch, text in zip(sketches, (one, other), strict=True):
            sketch.update_batch([word.encode() for word in text.split()])
        theirs.append(sketches[0].jaccard(sketches[1]))
    # Standard error of a mean of 60 estimates that err by 0.044 each.
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * 0.044 / 60**0.5 * 2**0.5
    assert 0.6 < np.std(ours) / np.std(theirs) < 1.6


def test_the_table_of_16_bands_of_8():
    table = {0.5: 0.061, 0.6: 0.237, 0.7: 0.613, 0.8: 0.947, 0.9: 0.9999}
    for similarity, probability in table.items():
        assert candidate_probability(similarity, 16, 8) == pytest.approx(probability, abs=5e-4)
    assert steepest_similarity(16, 8) == pytest.approx(0.7071, abs=1e-4)
    assert steepest_similarity(14, 8) == pytest.approx(0.719, abs=1e-3)


@pytest.mark.parametrize("bands, rows", [(16, 8), (5, 3)])
def test_candidates_are_as_frequent_as_the_closed_form_says(bands, rows):
    chance, count = random.Random(3), 400
    for similarity in (0.5, 0.6, 0.7, 0.8):
        texts = [text for _ in range(count) for text in pair_of(similarity, 100, chance)]
        keys = band_keys(signatures(column(texts), WORDS, bands * rows), bands)
        found = (keys[::2] == keys[1::2]).any(axis=1).mean()
        expected = candidate_probability(similarity, bands, rows)
        assert abs(found - expected) < 4 * (expected * (1 - expected) / count) ** 0.5 + 1e-9
    assert len(set(keys.reshape(-1).tolist())) > 0.4 * keys.size


def corpus(chance: random.Random, originals: int = 40) -> tuple[list[str], list[int]]:
    texts, cluster = [], []
    for number in range(originals):
        original = article(chance)
        texts += [original, *(edited(original, 0.01, chance) for _ in range(number % 4))]
        cluster += [number] * (1 + number % 4)
    order = list(range(len(texts)))
    chance.shuffle(order)
    return [texts[row] for row in order], [cluster[row] for row in order]


@pytest.mark.parametrize("rows, partitions", [(7, 1), (1000, 5), (20, 3)])
def test_one_of_each_cluster_stays_however_the_work_is_cut(rows, partitions):
    texts, cluster = corpus(random.Random(4))
    kept = left(MinHash(), texts, rows, partitions)
    names = [f"d{row:06d}" for row in range(len(texts))]
    first = {number: names[row] for row, number in reversed(list(enumerate(cluster)))}
    assert sorted(kept) == sorted(first.values())


def test_the_threshold_decides_by_true_similarity_among_candidates():
    """With one row a band nearly everything meets; what is dropped is what brute force says."""
    chance = random.Random(5)
    original = article(chance)
    texts = [original, *(edited(original, rate / 100, chance) for rate in range(1, 15))]
    data, offsets = bytes_of(column(texts))
    shingles, bounds = shingles_of(data, offsets, Shingling(5))
    sets = [set(shingles[a:b].tolist()) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    stage = MinHash(bands=30, rows=1, threshold=0.6)
    for row in range(1, len(texts)):
        kept = left(stage, [texts[0], texts[row]])
        assert (len(kept) == 1) == (jaccard(sets[0], sets[row]) >= 0.6)
    assert len(left(MinHash(bands=30, rows=1, threshold=0), texts)) == 1


def test_what_is_kept_is_ruled():
    chance = random.Random(6)
    text = article(chance)
    texts, metadata = [text, f"{text} and more", text], [{"q": 1}, {"q": 2}, {"q": 3}]
    for keep, expected in (("first", "d000000"), ("longest", "d000001"), ("score:q", "d000002")):
        assert list(left(MinHash(keep=keep), texts, metadata=metadata)) == [expected]


def test_a_bucket_larger_than_a_slice_is_taken_in_slices(monkeypatch):
    monkeypatch.setattr(minhash, "LARGEST_GROUP", 5)
    chance = random.Random(7)
    text = article(chance)
    texts = [edited(text, 0.003, chance) for _ in range(40)] + [article(chance) for _ in range(10)]
    assert len(left(MinHash(), texts, partitions=4)) == 11
    first = MinHash().keys(batch_of(texts))
    second = MinHash().resolve(MinHash().match(first))
    assert np.unique(second.groups, return_counts=True)[1].max() <= 6


def test_empty_and_wordless_documents_are_left_alone():
    assert len(left(MinHash(), ["", "", "!!!", "...", "a b", "A B"])) == 5
    assert left(MinHash(), []) == {}


def test_two_documents_of_one_id_are_refused_rather_than_both_dropped():
    chance = random.Random(8)
    text = article(chance)
    with pytest.raises(ValueError, match="several documents have the id 'same'"):
        resolved(MinHash(), [batch_of([text, text, text], ["a", "same", "same"])])


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"bands": 0}, "bands and rows must be at least 1, got 0 and 8"),
        ({"threshold": 1.5}, "between 0 and 1, got 1.5"),
        ({"keep": "newest"}, "keep must be 'first'"),
    ],
)
def test_wrong_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        MinHash(**settings)
