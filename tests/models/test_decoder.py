from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm import models
from jaxllm.models import (
    PRESETS,
    AttentionConfig,
    Block,
    MLPConfig,
    ModelConfig,
    NormConfig,
    decoder_spec,
    make_cache,
    unembed,
)
from jaxllm.models.block import dropout
from jaxllm.models.declare import count, ones
from tests.models import numpy_decoder

# One program for each config and shape, shared by the tests of a process.
forward = partial(jax.jit, static_argnums=1)(models.forward)
hidden_states = partial(jax.jit, static_argnums=1, static_argnames="remat")(models.hidden_states)

LLAMA = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=3,
    attention=AttentionConfig(num_heads=6, num_kv_heads=2, head_dim=6),
    mlp=MLPConfig(d_ff=40, activation="silu", gated=True),
    tie_embeddings=False,
)
GPT2 = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=2,
    attention=AttentionConfig(num_heads=3, qkv_bias=True, out_bias=True),
    mlp=MLPConfig(d_ff=96, bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
)
QK_NORM = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=3,
    prologue=(Block(),),
    pattern=(Block(), Block()),
    attention=AttentionConfig(num_heads=4, num_kv_heads=1, qk_norm="shared"),
    mlp=MLPConfig(d_ff=32),
)
# Blocks of two kinds, a pattern that does not come out even, and what the others leave out: GeGLU, no positions, ...
HYBRID = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=6,
    prologue=(Block(channel="none"),),
    pattern=(Block(), Block(channel="none")),
    attention=AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=10, out_bias=True),
    mlp=MLPConfig(d_ff=32, activation="gelu", gated=True, bias=True),
    norm=NormConfig(kind="layernorm", epsilon=1e-2),
    positions="none",
)
STYLES = {"llama": LLAMA, "gpt2": GPT2, "qk_norm": QK_NORM, "hybrid": HYBRID}


@cache
def random_params(config):
    """Drawn without a program to compile, and noise on every leaf: biases and scales of 0 and 1 could go forgotten."""
    random = np.random.default_rng(0)

    def draw(param):
        start = 1.0 if param.init is ones else 0.0
        std = 0.2 if param.is_matrix else 0.1
        return jnp.asarray(start + std * random.normal(size=param.shape), jnp.float32)

    return jax.tree.map(draw, decoder_spec(config))


@pytest.fixture(scope="module", params=STYLES)
def model(request):
    config = STYLES[request.param]
    return config, random_params(config)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 18), 0, 61)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama3-8b", 8_030_261_248),
    ],
)
def test_published_parameter_counts(name, published):
    assert count(decoder_spec(PRESETS[name]())) == published


def test_count_is_the_sum_of_the_leaves(model):
    config, params = model
    assert count(decoder_spec(config)) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_logits_equal_plain_numpy(model, tokens):
    config, params = model
    expected = np.stack([numpy_decoder.logits(params, config, np.asarray(row)) for row in tokens])
    np.testing.assert_allclose(forward(params, config, tokens), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("activation", ["relu", "relu2"])
def test_the_other_activations_equal_plain_numpy(activation, tokens):
    config = replace(LLAMA, num_layers=1, mlp=replace(LLAMA.mlp, activation=activation))
    params = random_params(config)
    expected = numpy_decoder.logits(params, config, np.asarray(tokens[0]))
    np.testing.assert_allclose(forward(params, config, tokens)[0], expected, rtol=2e-4, atol=2e-4)


def test_no_logit_depends_on_a_later_token(model):
    """By gradients: of each position's logits with respect to the embedding of each token."""
    config, params = model
    distinct = jnp.arange(12)[None]  # every token its own row of the table, so rows stand for positions
    head = params.embedding if params.head is None else params.head

    def outputs(embedding):
        return jnp.sin(models.forward(params.replace(embedding=embedding, head=head), untied, distinct)[0]).sum(-1)

    untied = replace(config, tie_embeddings=False)
    reach_TS = np.abs(jax.jit(jax.jacrev(outputs))(params.embedding)).sum(-1)[:, :12]
    earlier = np.tril(np.ones((12, 12), bool))
    assert (reach_TS[earlier] > 0).all() and (reach_TS[~earlier] == 0).all()


def test_packed_documents_do_not_see_each_other(model, tokens):
    config, params = model
    lengths = (7, 4, 7)
    segment_ids = jnp.repeat(jnp.arange(1, 4), jnp.array(lengths), total_repeat_length=18)[None].repeat(2, 0)
    positions = jnp.concatenate([jnp.arange(n) for n in lengths])[None].repeat(2, 0)
    packed = forward(params, config, tokens, positions=positions, segment_ids=segment_ids)
    start = 0
    for n in lengths:
        alone = forward(params, config, tokens[:, start : start + n])
        np.testing.assert_allclose(packed[:, start : start + n], alone, rtol=1e-4, atol=1e-4)
        start += n


def test_a_changed_document_changes_no_logit_of_another(model, tokens):
    config, params = model
    segment_ids = jnp.array([[1] * 7 + [2] * 4 + [3] * 7, [1] * 3 + [2] * 8 + [0] * 7])
    positions = jnp.array([[*range(7), *range(4), *range(7)], [*range(3), *range(8), *range(7)]])
    packed = lambda ids: forward(params, config, ids, positions=positions, segment_ids=segment_ids)  # noqa: E731
    changed = np.asarray(segment_ids == 2)
    before, after = packed(tokens), packed(jnp.where(changed, (tokens + 1) % 61, tokens))
    np.testing.assert_array_equal(before[~changed], after[~changed])
    assert (np.abs(before - after)[changed].max(-1) > 1e-3).all()


def test_cached_in_pieces_equals_the_whole(model, tokens):
    config, params = model
    cache, pieces = make_cache(config, 2, 20), []
    for start, stop in ((0, 7), (7, 8), (8, 18)):
        hidden = hidden_states(params, config, tokens[:, start:stop], cache=cache)
        cache = hidden.cache
        pieces.append(unembed(params, config, hidden.x_BTD))
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), forward(params, config, tokens), rtol=1e-4, atol=1e-4)
    assert cache.length_B.tolist() == [18, 18]


def test_rows_of_a_cache_may_have_come_different_ways(model, tokens):
    config, params = model
    cache = hidden_states(params, config, tokens[:, :10], cache=make_cache(config, 2, 20)).cache
    cache = cache.replace(length_B=jnp.array([10, 6]))  # row 1's last four were padding
    new = jnp.array([[3], [5]])
    x = hidden_states(params, config, new, cache=cache).x_BTD
    for row, length in enumerate((10, 6)):
        whole = jnp.concatenate([tokens[row : row + 1, :length], new[row : row + 1]], 1)
        np.testing.assert_allclose(
            unembed(params, config, x)[row, 0], forward(params, config, whole)[0, -1], rtol=1e-4, atol=1e-4
        )


def test_bfloat16_is_close_and_logits_are_float32(model, tokens):
    config, params = model
    low = forward(params, replace(config, compute_dtype="bfloat16"), tokens)
    exact = forward(params, config, tokens)
    assert low.dtype == jnp.float32
    assert jnp.abs(low - exact).mean() < 0.05 * jnp.abs(exact).mean()


def test_dropout_needs_a_key(tokens):
    config = replace(LLAMA, dropout=0.5)
    params = random_params(config)
    whole = hidden_states(params, LLAMA, tokens).x_BTD
    np.testing.assert_array_equal(hidden_states(params, config, tokens).x_BTD, whole)
    dropped = hidden_states(params, config, tokens, dropout_key=jax.random.key(3)).x_BTD
    assert jnp.abs(dropped - whole).max() > 0.1


def test_dropout_keeps_the_mean():
    y = dropout(jnp.full((200, 200), 3.0), 0.2, jax.random.key(0))
    np.testing.assert_allclose(np.unique(y), [0, 3 / 0.8], rtol=1e-6)
    # The mean of 40,000 units has a standard deviation of 3 * sqrt(0.2 / 0.8 / 40,000) = 0.0075.
    assert abs(y.mean() - 3) < 0.03


def test_every_branch_of_every_layer_drops_units_of_its_own():
    """Where each branch adds a one, a unit of the stream counts the branches that kept it: a binomial distribution."""
    config = ModelConfig(
        vocab_size=61,
        context_length=64,
        d_model=64,
        num_layers=2,
        attention=AttentionConfig(num_heads=1, out_bias=True),
        mlp=MLPConfig(d_ff=1, bias=True),
        dropout=0.5,
    )
    zeros = jax.tree.map(jnp.zeros_like, random_params(config))
    (block,) = zeros.segments[0]
    block = block.replace(
        mixer=block.mixer.replace(out_bias=block.mixer.out_bias + 1),
        channel=block.channel.replace(down_bias=block.channel.down_bias + 1),
    )
    params = zeros.replace(segments=((block,),), norm=zeros.norm.replace(scale=zeros.norm.scale + 1))
    x_BTD = hidden_states(params, config, jnp.zeros((4, 64), jnp.int32), dropout_key=jax.random.key(0)).x_BTD
    # The last norm leaves (E k)^2 / E k^2 as it is. Four independent halves: 2^2 / (1 + 2^2); any two alike: less.
    assert float(x_BTD.mean() ** 2 / (x_BTD**2).mean()) == pytest.approx(4 / 5, abs=0.02)


def test_more_tokens_than_learned_positions_are_refused(tokens):
    params = random_params(GPT2)
    with pytest.raises(ValueError, match="25 tokens exceed the 24 learned positions"):
        forward(params, GPT2, jnp.zeros((1, 25), jnp.int32))
