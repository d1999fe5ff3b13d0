"""What holds for every kind of softmax attention: causality, packing, and a cache that changes nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.inference.engine import generate_tokens
from jaxllm.inference.sampling import SamplingConfig
from jaxllm.models import Block, ModelConfig, RopeConfig, decoder_spec, forward
from jaxllm.models.layers import layer_of
from tests.models.mixers.attention_variants import (
    GROUPED,
    QUICK,
    VARIANTS,
    branch,
    onward,
    random_parameters,
    random_stream,
    whole,
)

T = 24


@pytest.fixture(scope="module", params=VARIANTS)
def layer(request):
    model, config = VARIANTS[request.param]
    return random_parameters(model, config), model, config


def reach(config, length):
    """Which positions a query must see, bool [T, S], said once more."""
    window, chunk = getattr(config, "window", 0) or length, getattr(config, "chunk", 0) or length
    seen = lambda t, s: s <= t and t - s < window and t // chunk == s // chunk  # noqa: E731
    return np.array([[seen(t, s) for s in range(length)] for t in range(length)])


def test_a_query_sees_what_it_may_and_nothing_else(layer):
    """By gradients of each position's branch with respect to the stream at each position."""
    p, model, config = layer
    x_BTD = random_stream(1, 12)
    outputs = lambda x: jnp.sin(branch(p, model, config, x)[0]).sum(-1)  # noqa: E731
    reach_TS = np.abs(jax.jit(jax.jacrev(outputs), compiler_options=QUICK)(x_BTD))[:, 0].sum(-1)
    np.testing.assert_array_equal(reach_TS > 0, reach(config, 12))


def test_packed_documents_are_as_if_alone(layer):
    p, model, config = layer
    lengths = (11, 3, 8)
    x_BTD = random_stream(1, T).repeat(3, 0)
    starts = np.cumsum((0, *lengths))[:3]
    packed_ids, packed_positions, alone_ids = (np.zeros((3, T), np.int32) for _ in range(3))
    alone_x = np.zeros_like(x_BTD)
    for i, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        packed_ids[:, start : start + n], packed_positions[:, start : start + n] = i + 1, np.arange(n)
        alone_ids[i, :n], alone_x[i, :n] = 1, x_BTD[0, start : start + n]
    # The rest of a row with one document is padding, whose positions begin anew as well.
    alone_positions = np.stack([np.r_[np.arange(n), np.arange(T - n)] for n in lengths]).astype(np.int32)
    packed = whole(p, model, config, x_BTD, packed_positions, packed_ids)
    alone = whole(p, model, config, alone_x, alone_positions, alone_ids)
    for i, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        np.testing.assert_allclose(packed[0, start : start + n], alone[i, :n], rtol=1e-5, atol=1e-5)


def test_pieces_with_a_cache_equal_the_whole(layer):
    """Rows of different lengths: pieces are padded on the right, and longer than the window, or a single token. The
    cache keeps its shapes and types, as loops need it."""
    p, model, config = layer
    x_BTD, ones = random_stream(3, T), np.ones((3, T), np.int32)
    expected = np.asarray(whole(p, model, config, x_BTD, np.arange(T, dtype=np.int32)[None] * ones, ones))
    cache, length_B = layer_of(config).empty_cache(model, config, 3, T), np.zeros(3, np.int32)
    empty = jax.eval_shape(lambda: cache)
    for counts in ((8, 3, 6), (1, 1, 1), (8, 8, 1), (1, 1, 1), (1, 1, 1)):
        width = 8 if max(counts) > 1 else 1
        pieces = np.full((3, width, 20), 9, np.float32)  # so that padding is not nothing
        for row, (start, n) in enumerate(zip(length_B, counts, strict=True)):
            pieces[row, :n] = x_BTD[row, start : start + n]
        out, cache = onward(p, model, config, pieces, cache, length_B, np.arange(width) < np.array(counts)[:, None])
        for row, (start, n) in enumerate(zip(length_B, counts, strict=True)):
            np.testing.assert_allclose(out[row, :n], expected[row, start : start + n], rtol=2e-5, atol=2e-5)
        length_B = length_B + np.array(counts, np.int32)
    assert length_B.tolist() == [19, 14, 10]
    assert jax.eval_shape(lambda: cache) == empty


@pytest.mark.long
def test_layers_of_many_kinds_generate_what_the_whole_text_says():
    """Caches of three kinds and sizes in one scan; prompts of different lengths, longer than window and chunk."""
    names = ("window, sinks, dynamic ntk", "latent", "chunk and a wider window, gate")
    mixers = [replace(VARIANTS[name][1], rope=RopeConfig()) for name in names]
    config = ModelConfig(
        vocab_size=32,
        context_length=32,
        d_model=20,
        num_layers=6,
        pattern=tuple(Block(mixer=mixer, channel="none") for mixer in mixers),
        attention=GROUPED,
    )
    random = np.random.default_rng(0)
    draw = lambda param: random.normal(scale=0.5, size=param.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, decoder_spec(config))
    prompts = [list(range(3, 14)), [5, 1]]
    rows = generate_tokens(params, config, prompts, max_new_tokens=12, sampling=SamplingConfig(temperature=0))
    text = np.zeros((2, 24), np.int32)
    for i, (prompt, new) in enumerate(zip(prompts, rows, strict=True)):
        text[i, : len(prompt) + len(new)] = prompt + new
    likeliest = np.argmax(jax.jit(forward, static_argnums=1)(params, config, text), axis=-1)
    for i, (prompt, new) in enumerate(zip(prompts, rows, strict=True)):
        start = len(prompt) - 1
        assert new == likeliest[i, start : start + len(new)].tolist()
        assert len(new) == 12
