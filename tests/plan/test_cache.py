"""Caches and states: the figures of papers and model cards, from the mixers' own caches."""

from dataclasses import replace

import jax
import pytest

from jaxllm.models import PRESETS, make_cache
from jaxllm.models.config import Block, ModelConfig, SparseAttentionConfig
from jaxllm.plan.cache import cache_bytes, cache_parts

KIB, GIB = 2**10, 2**30


def bf16(name):
    return replace(PRESETS[name](), compute_dtype="bfloat16")


@pytest.mark.parametrize(
    ("name", "context", "size"),
    [
        ("llama3-8b", 131_072, 16 * GIB),
        ("llama3-70b", 131_072, 40 * GIB),
        ("llama3-405b", 131_072, 63 * GIB),
        ("llama3-70b", 4096, 1_342_177_280),
        ("deepseek-v3", 131_072, 61 * (512 + 64) * 131_072 * 2),  # 9.21 GB, 8.58 GiB
        ("gpt2", 1024, 18_432 * 1024 * 2),
    ],
)
def test_published_sizes(name, context, size):
    assert cache_bytes(bf16(name), context) == size


def test_gpt2_in_float32():
    assert cache_bytes(PRESETS["gpt2"](), 1024) == 18_432 * 1024 * 4  # 75.5 MB


def test_a_further_token():
    (part,) = cache_parts(bf16("llama3-8b"), 8192)
    assert (part.per_token, part.layers) == (128 * KIB, 32)
    (part,) = cache_parts(bf16("llama3-405b"), 8192, batch=3)
    assert part.per_token == 504 * KIB


def test_windows_bound_half_of_gemma_2():
    model = bf16("gemma2-9b")
    window, full = cache_parts(model, 8192)
    assert (window.name, window.layers, window.per_token) == ("attention, window 4096", 21, 0)
    assert full.bytes == 2 * window.bytes
    assert round((window.bytes + full.bytes) / 1e9, 2) == 2.11
    assert round(2 * full.bytes / 1e9, 2) == 2.82
    assert cache_parts(model, 16_384)[0].bytes == window.bytes


def test_jamba():
    """Four attention layers, and states that do not grow."""
    parts = {part.name: part for part in cache_parts(bf16("jamba-v0.1"), 262_144)}
    assert (parts["attention"].layers, parts["attention"].bytes) == (4, 4 * GIB)
    mamba = parts["mamba"]
    assert mamba.contents == {"state": 28 * 8192 * 16 * 4, "history": 28 * 8192 * 3 * 2}  # 14.7 MB (float32), 1.4 MB
    assert (mamba.layers, mamba.per_token) == (28, 0)


def test_channel_mixers_with_a_state_count():
    assert {part.name for part in cache_parts(bf16("rwkv-4-169m"), 1024)} == {"rwkv", "rwkv_channel"}


@pytest.mark.parametrize("name", ["llama3-8b", "gemma3-1b", "deepseek-v3", "jamba-v0.1", "mamba2-130m", "rwkv-4-169m"])
def test_parts_add_up_to_what_decoding_allocates(name):
    model = bf16(name)
    cache = jax.eval_shape(lambda: make_cache(model, 3, 700))
    allocated = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache.segments))
    parts = cache_parts(model, 700, 3)
    assert sum(part.bytes for part in parts) == allocated
    assert all(sum(part.contents.values()) == part.bytes for part in parts)


def test_sparse_attention_holds_everything_and_reads_a_little():
    sparse = SparseAttentionConfig(num_heads=16, num_kv_heads=4, head_dim=64, window=512)
    model = ModelConfig(vocab_size=256, d_model=1024, num_layers=2, pattern=(Block(sparse),), compute_dtype="bfloat16")
    (part,) = cache_parts(model, 65_536)
    row = 2 * 2 * 2 * 4 * 64  # keys and values of a position, both layers, two bytes
    assert part.contents["selected.key"] + part.contents["selected.value"] == 65_536 * row
    assert part.read == pytest.approx((1024 + 4095 + 31 + 511) * row)
