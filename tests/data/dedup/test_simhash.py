import random

import numpy as np
import pyarrow as pa
import pytest

from jaxllm.data.dedup import SimHash
from jaxllm.data.dedup.shingles import Shingling, shingles_of
from jaxllm.data.dedup.simhash import fingerprints
from jaxllm.data.dedup.words import bytes_of

from .small_engine import batch_of, left, resolved


def article(chance: random.Random, words: int = 400) -> str:
    return " ".join(f"w{chance.randrange(5000)}" for _ in range(words))


def test_a_fingerprint_is_the_sign_of_a_sum():
    chance = random.Random(0)
    texts = ["", *(article(chance, length) for length in (1, 2, 3, 50)), "a a a a b"]
    found, told = fingerprints(pa.array(texts, pa.large_string()), Shingling(2))
    shingles, offsets = shingles_of(*bytes_of(pa.array(texts, pa.large_string())), Shingling(2))
    assert told.tolist() == [False] + [True] * 5
    for row in range(1, len(texts)):
        mine = shingles[offsets[row] : offsets[row + 1]].tolist()
        signs = [sum(1 if one >> bit & 1 else -1 for one in mine) > 0 for bit in range(64)]
        assert int(found[row]) == sum(sign << bit for bit, sign in enumerate(signs))


def test_distance_follows_the_angle():
    """Two sets of n shingles of which a share s is common lie at the angle acos(s): 64 acos(s) / pi bits apart."""
    chance = random.Random(1)
    for share in (0.5, 0.9):
        texts = []
        for _ in range(200):
            words = [f"{chance.getrandbits(50):x}" for _ in range(400)]
            other = [f"{chance.getrandbits(50):x}" for _ in range(round(400 * (1 - share)))]
            texts += [" ".join(words), " ".join(words[: 400 - len(other)] + other)]
        found, _ = fingerprints(pa.array(texts, pa.large_string()), Shingling(1))
        bits = np.bitwise_count(found[::2] ^ found[1::2])
        assert bits.mean() == pytest.approx(64 * np.arccos(share) / np.pi, rel=0.06)


@pytest.mark.parametrize("distance, blocks", [(3, 6), (3, 4), (0, 1), (5, 7)])
def test_all_within_the_distance_meet(distance, blocks, monkeypatch):
    chance = random.Random(2)
    base = chance.getrandbits(64)
    flips = [chance.sample(range(64), bits) for bits in (0, 1, distance, distance + 1, distance + 2) for _ in range(20)]
    values = np.array([base] + [base ^ sum(1 << bit for bit in one) for one in flips], np.uint64)
    told = np.ones(2, bool)
    for row in range(1, len(values)):
        two = values[[0, row]]
        monkeypatch.setattr("jaxllm.data.dedup.simhash.fingerprints", lambda *_, two=two: (two, told))
        found = resolved(SimHash(distance, blocks), [batch_of(["a", "b"])], partitions=3)
        assert len(found) == (len(flips[row - 1]) <= distance)


def test_a_fingerprint_of_equal_blocks_does_not_meet_itself(monkeypatch):
    values = np.array([0, 0], np.uint64)
    monkeypatch.setattr("jaxllm.data.dedup.simhash.fingerprints", lambda *_: (values, np.ones(2, bool)))
    assert resolved(SimHash(), [batch_of(["a", "b"])])["id"].to_pylist() == ["d000001"]


def test_near_duplicates_go():
    chance = random.Random(3)
    texts = [article(chance) for _ in range(20)]
    texts += [f"{text} and so on" for text in texts[:10]]
    kept = left(SimHash(distance=8, blocks=11, keep="longest"), texts, rows=4)
    assert sorted(kept) == [f"d{row:06d}" for row in range(10, 30)]


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"distance": 6}, "distance must be less than blocks, and blocks at most 64, got 6 and 6"),
        ({"distance": 8, "blocks": 16}, "16 blocks for distance 8 make 12870 rows"),
    ],
)
def test_wrong_settings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        SimHash(**settings)
