from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxllm.models import ModelConfig
from jaxllm.models.config import CrossAttentionConfig
from jaxllm.models.declare import initialize
from jaxllm.models.layer import Context
from jaxllm.models.mixers.cross_attention import (
    CrossContext,
    Memory,
    cross_attention,
    cross_attention_cache,
    cross_attention_spec,
    reference_cross_attention,
    remember,
)

MODEL = ModelConfig(vocab_size=8, d_model=12, num_layers=1, init_std=0.4, positions="none")
CONFIG = CrossAttentionConfig(num_heads=3, head_dim=5, d_memory=10)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 4, 12)).astype(np.float32)
MEMORY = RANDOM.normal(size=(2, 6, 10)).astype(np.float32)


def parameters(config):
    spec = cross_attention_spec(MODEL, config)
    return jax.tree.map(lambda p: p + 0.1, initialize(spec, jax.random.key(0)))


def run(p, config, x, memory, memory_segments, segments=None):
    context = CrossContext(np.arange(x.shape[1])[None], segments, None, memory=Memory(memory, memory_segments))
    return cross_attention(p, MODEL, config, x, context, None)[0]


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_it_is_what_a_loop_over_heads_gives(scale):
    config = replace(CONFIG, scale=scale)
    p = parameters(config)
    got = run(p, config, X, MEMORY, np.ones((2, 6), int))
    for row in range(2):
        want = reference_cross_attention(p, scale or 5**-0.5, X[row], MEMORY[row])
        np.testing.assert_allclose(got[row], want, rtol=1e-5, atol=1e-5)


def test_padding_is_not_seen_and_packed_pairs_stay_apart():
    p = parameters(CONFIG)
    whole = run(p, CONFIG, X, MEMORY[:, :4], np.ones((2, 4), int))
    padded = run(p, CONFIG, X, MEMORY, np.array([[1, 1, 1, 1, 0, 0]] * 2))
    np.testing.assert_allclose(padded, whole, atol=1e-6)
    packed = run(p, CONFIG, X, MEMORY, np.array([[1, 1, 1, 1, 2, 2]] * 2), np.array([[1, 1, 2, 2]] * 2))
    np.testing.assert_allclose(packed[:, :2], whole[:, :2], atol=1e-6)
    second = run(p, CONFIG, X[:, 2:], MEMORY[:, 4:], np.ones((2, 2), int))
    np.testing.assert_allclose(packed[:, 2:], second, atol=1e-6)


@pytest.mark.parametrize("kv_heads", [3, 1])
def test_remembered_is_the_same(kv_heads):
    config = replace(CONFIG, num_kv_heads=kv_heads, qkv_bias=True, out_bias=True)
    p, segments = parameters(config), np.array([[1, 1, 1, 1, 1, 0]] * 2)
    cache = remember(p, Memory(MEMORY, segments))
    context = Context(np.arange(4)[None], None, None)
    got, after, _ = cross_attention(p, MODEL, config, X, context, cache)
    np.testing.assert_allclose(got, run(p, config, X, MEMORY, segments), atol=1e-6)
    assert after is cache


def test_without_a_memory_it_says_so():
    with pytest.raises(ValueError, match="cross attention has nothing to look at"):
        cross_attention(parameters(CONFIG), MODEL, CONFIG, X, Context(np.arange(4)[None], None, None), None)
    assert cross_attention_cache(MODEL, CONFIG, 2, 9).key_BSGK.shape == (2, 0, 3, 5)
    with pytest.raises(ValueError, match="num_heads=3 must be a positive multiple of num_kv_heads=2"):
        CrossAttentionConfig(num_heads=3, num_kv_heads=2)
