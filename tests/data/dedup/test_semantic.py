import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from jaxllm.data.dedup import Semantic
from jaxllm.data.dedup.semantic import nearest, too_close, train_centroids, unit_rows

from .small_engine import left


@dataclass(frozen=True)
class Parsed:
    """The text is its own embedding."""

    def __call__(self, texts):
        return np.array([[float(number) for number in text.split()] for text in texts])


def texts_of(vectors) -> list[str]:
    return [" ".join(f"{number:.6f}" for number in row) for row in vectors]


def clouds(seed: int = 0, count: int = 40, clusters: int = 4, width: int = 16):
    """Vectors about a few directions, each with a twin near it."""
    draw = np.random.default_rng(seed)
    middles = np.eye(width)[:clusters] * 3
    vectors = middles[draw.integers(0, clusters, count)] + draw.normal(size=(count, width))
    return vectors, vectors + draw.normal(size=vectors.shape) * 0.01


@pytest.fixture
def centroids(tmp_path):
    vectors, _ = clouds()
    np.save(tmp_path / "centroids.npy", train_centroids(vectors, 4))
    return str(tmp_path / "centroids.npy")


@pytest.mark.parametrize("keep", ["farthest", "nearest"])
def test_twins_go_and_the_rule_says_which(centroids, keep):
    vectors, twins = clouds()
    stage = pickle.loads(pickle.dumps(Semantic(Parsed(), centroids, 0.99, keep)))
    kept = left(stage, texts_of([*vectors, *twins]), rows=7, partitions=3)
    cluster, cosine = nearest(unit_rows(np.concatenate([vectors, twins]).astype(np.float32)), np.load(centroids))
    far = [int(np.argmin(cosine[[row, row + 40]])) for row in range(40)]
    expected = [row + 40 * (one if keep == "farthest" else 1 - one) for row, one in enumerate(far)]
    assert sorted(kept) == [f"d{row:06d}" for row in sorted(expected)]


def slow_too_close(vectors, threshold):
    kept = []
    for row, vector in enumerate(vectors):
        if not any(vector @ vectors[one] >= threshold for one in kept):
            kept.append(row)
    return [row not in kept for row in range(len(vectors))]


@pytest.mark.parametrize("square", [1, 3, 8, 1000])
def test_blocks_change_nothing(square, monkeypatch):
    monkeypatch.setattr("jaxllm.data.dedup.semantic._SQUARE", square)
    vectors = unit_rows(np.random.default_rng(1).normal(size=(60, 3)))
    assert too_close(vectors, 0.9).tolist() == slow_too_close(vectors, 0.9)


def test_spherical_k_means_finds_the_clouds():
    vectors, _ = clouds(seed=3, count=400)
    centroids = train_centroids(vectors, 4, seed=1)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1)
    _, best = nearest(unit_rows(vectors.astype(np.float32)), centroids)
    _, made = nearest(unit_rows(vectors.astype(np.float32)), np.eye(16, dtype=np.float32)[:4])
    assert best.mean() > made.mean()
    assert np.array_equal(centroids, train_centroids(vectors * 8, 4, seed=1))
    assert len(train_centroids(np.ones((5, 2)), 5)) == 5


def test_bad_input(tmp_path, centroids):
    vectors, _ = clouds()
    with pytest.raises(ValueError, match="there are no centroids"):
        Semantic(Parsed(), str(tmp_path / "none.npy")).keys(_batch(vectors))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="is not a readable .npy file"):
        Semantic(Parsed(), str(tmp_path / "broken.npy")).keys(_batch(vectors))
    np.save(tmp_path / "ints.npy", np.ones((2, 2), int))
    with pytest.raises(ValueError, match=r"found int64 \[2, 2\]"):
        Semantic(Parsed(), str(tmp_path / "ints.npy")).keys(_batch(vectors))
    with pytest.raises(ValueError, match="must come from the same function"):
        Semantic(Parsed(), centroids).keys(_batch(vectors[:, :5]))
    with pytest.raises(ValueError, match="row 1 of the embeddings has no direction"):
        unit_rows(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="asked for 9"):
        train_centroids(np.ones((3, 2)), 9)
    with pytest.raises(ValueError, match="threshold is a cosine"):
        Semantic(Parsed(), centroids, 2.0)
    with pytest.raises(ValueError, match="'farthest' or 'nearest', got 'middle'"):
        Semantic(Parsed(), centroids, keep="middle")


def _batch(vectors):
    from .small_engine import batch_of

    return batch_of(texts_of(vectors))
