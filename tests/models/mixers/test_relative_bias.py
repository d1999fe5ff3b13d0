import numpy as np
import pytest

from jaxllm.models.config import RelativeBiasConfig
from jaxllm.models.mixers.relative_bias import bucket, relative_bias, relative_bias_spec

BOTH, BACK = RelativeBiasConfig(), RelativeBiasConfig(bidirectional=False)


def test_buckets_of_t5():
    # Backwards only: 0 .. 15 exact, then 16 steps of the logarithm from 16 to 128: an edge at 16 * 8 ** (n / 16).
    assert [bucket(-d, BACK) for d in range(16)] == list(range(16))
    edges = [next(d for d in range(200) if bucket(-d, BACK) == n) for n in range(16, 32)]
    assert edges == [int(np.ceil(16 * 8 ** (n / 16))) for n in range(16)]
    assert bucket(-127, BACK) == bucket(-128, BACK) == bucket(-10_000, BACK) == 31
    assert {bucket(d, BACK) for d in range(50)} == {0}
    # Both ways: 8 exact ones each, keys after the query 16 further on.
    assert [bucket(-d, BOTH) for d in (0, 7, 8, 16, 32, 64, 127, 128)] == [0, 7, 8, 10, 12, 14, 15, 15]
    assert all(bucket(d, BOTH) == bucket(-d, BOTH) + 16 for d in range(1, 200))


@pytest.mark.parametrize("config", [BOTH, BACK, RelativeBiasConfig(10, 37), RelativeBiasConfig(6, 9, False)])
def test_the_bias_is_the_tables_row_for_each_distance(config):
    table = np.random.default_rng(0).normal(size=(config.buckets, 3)).astype(np.float32)
    queries, keys = np.array([[0, 1, 2, 40, 200], [3, 4, 5, 0, 1]]), np.array([[0, 1, 150, 7], [5, 0, 3, 90]])
    got = relative_bias(table, config, queries, keys)
    assert got.shape == (2, 3, 5, 4)
    for row, t, s in np.ndindex(2, 5, 4):
        want = table[bucket(int(keys[row, s] - queries[row, t]), config)]
        np.testing.assert_array_equal(got[row, :, t, s], want)


@pytest.mark.parametrize("config", [BOTH, BACK, RelativeBiasConfig(10, 37), RelativeBiasConfig(6, 9, False)])
def test_buckets_are_those_of_transformers(config):
    torch = pytest.importorskip("torch", reason="the parity tests need requirements/parity.txt")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="the parity tests need it")
    theirs = t5.T5Attention._relative_position_bucket(
        torch.arange(-300, 301), config.bidirectional, config.buckets, config.max_distance
    )
    assert [bucket(d, config) for d in range(-300, 301)] == theirs.tolist()


def test_impossible_ranges():
    assert relative_bias_spec(BOTH, 3, 1.0).shape == (32, 3)
    for values in ({"buckets": 7}, {"buckets": 2}, {"buckets": 32, "max_distance": 8}):
        with pytest.raises(ValueError, match="leave no range to grow"):
            RelativeBiasConfig(**values)
