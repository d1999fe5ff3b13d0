import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import (
    PRESETS,
    AttentionConfig,
    Block,
    MLPConfig,
    ModelConfig,
    NormConfig,
    decoder_spec,
    forward,
    hidden_states,
    make_cache,
    unembed,
)
from jaxllm.models.declare import count, decay_mask, initialize
from tests.models import numpy_decoder

LLAMA = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=3,
    attention=AttentionConfig(num_heads=6, num_kv_heads=2, head_dim=6),
    mlp=MLPConfig(d_ff=40, activation="silu", gated=True),
    tie_embeddings=False,
    init_std=0.2,
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
    init_std=0.2,
)
QK_NORM = ModelConfig(
    vocab_size=61,
    context_length=24,
    d_model=24,
    num_layers=3,
    prologue=(Block(),),
    pattern=(Block(), Block()),
    attention=AttentionConfig(num_heads=4, num_kv_heads=1, qk_norm=True),
    mlp=MLPConfig(d_ff=32),
    init_std=0.2,
)
STYLES = {"llama": LLAMA, "gpt2": GPT2, "qk_norm": QK_NORM}


@pytest.fixture(scope="module", params=STYLES)
def model(request):
    config = STYLES[request.param]
    params = initialize(decoder_spec(config), jax.random.key(0))
    # Biases and scales start at 0 and 1, where forgetting them would go unnoticed.
    noisy = lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape)  # noqa: E731
    return config, jax.tree.map(noisy, params)


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


def test_no_logit_depends_on_a_later_token(model, tokens):
    """By gradients: of each position's logits with respect to the embedding of each token."""
    config, params = model
    distinct = jnp.arange(12)[None]  # every token its own row of the table, so rows stand for positions

    def at(embedding, t):
        return jnp.sum(jnp.sin(forward(params.replace(embedding=embedding, head=head), config, distinct)[0, t]))

    head = params.embedding if params.head is None else params.head
    for t in (0, 5, 10):
        reach = jnp.abs(jax.grad(at)(params.embedding, t)).sum(-1)[:12]
        assert (reach[: t + 1] > 0).all() and (reach[t + 1 :] == 0).all()


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


def test_cached_in_pieces_equals_the_whole(model, tokens):
    config, params = model
    cache, pieces = make_cache(config, 2, 20), []
    for start, stop in ((0, 7), (7, 8), (8, 18)):
        x, cache = hidden_states(params, config, tokens[:, start:stop], cache=cache)
        pieces.append(unembed(params, x))
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), forward(params, config, tokens), rtol=1e-4, atol=1e-4)
    assert cache.length_B.tolist() == [18, 18]


def test_rows_of_a_cache_may_have_come_different_ways(model, tokens):
    config, params = model
    _, cache = hidden_states(params, config, tokens[:, :10], cache=make_cache(config, 2, 20))
    cache = cache.replace(length_B=jnp.array([10, 6]))  # row 1's last four were padding
    new = jnp.array([[3], [5]])
    x, _ = hidden_states(params, config, new, cache=cache)
    for row, length in enumerate((10, 6)):
        whole = jnp.concatenate([tokens[row : row + 1, :length], new[row : row + 1]], 1)
        np.testing.assert_allclose(
            unembed(params, x)[row, 0], forward(params, config, whole)[0, -1], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_gradient(remat, tokens):
    params = initialize(decoder_spec(LLAMA), jax.random.key(0))
    loss = lambda p, how: jnp.sum(jnp.sin(hidden_states(p, LLAMA, tokens, remat=how)[0]))  # noqa: E731
    grads = [jax.jit(jax.grad(loss), static_argnums=1)(params, how) for how in ("none", remat)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


def test_bfloat16_is_close_and_logits_are_float32(model, tokens):
    config, params = model
    from dataclasses import replace

    low = forward(params, replace(config, compute_dtype="bfloat16"), tokens)
    exact = forward(params, config, tokens)
    assert low.dtype == jnp.float32
    assert jnp.abs(low - exact).mean() < 0.05 * jnp.abs(exact).mean()


def test_dropout_needs_a_key_and_keeps_the_mean(tokens):
    from dataclasses import replace

    config = replace(LLAMA, dropout=0.5)
    params = initialize(decoder_spec(config), jax.random.key(0))
    whole, _ = hidden_states(params, LLAMA, tokens)
    np.testing.assert_array_equal(hidden_states(params, config, tokens)[0], whole)
    dropped = hidden_states(params, config, tokens, dropout_key=jax.random.key(3))[0]
    assert jnp.abs(dropped - whole).max() > 0.1


def test_matrices_of_the_stream_decay_and_vectors_do_not():
    mask = decay_mask(decoder_spec(GPT2))
    block = mask.segments[0][0]
    assert mask.embedding and mask.position and block.mixer.query and block.mixer.out and block.channel.down
    assert not (
        mask.norm.scale or mask.norm.bias or block.mixer.query_bias or block.mixer.out_bias or block.channel.up_bias
    )


def test_initialization_follows_the_declaration():
    params = initialize(decoder_spec(GPT2), jax.random.key(0))
    block = params.segments[0][0]
    assert float(block.channel.up.std()) == pytest.approx(0.2, rel=0.05)
    assert float(block.channel.down.std()) == pytest.approx(0.2 / 2, rel=0.05)  # / sqrt(2 * 2 layers)
    assert (block.mixer_norm.scale == 1).all() and (block.mixer.query_bias == 0).all()


def test_a_parameters_start_depends_on_its_path_alone():
    from dataclasses import replace

    untied = initialize(decoder_spec(replace(GPT2, tie_embeddings=False)), jax.random.key(0))
    tied = initialize(decoder_spec(GPT2), jax.random.key(0))
    np.testing.assert_array_equal(untied.segments[0][0].mixer.query, tied.segments[0][0].mixer.query)


def test_more_tokens_than_learned_positions_are_refused(tokens):
    params = initialize(decoder_spec(GPT2), jax.random.key(0))
    with pytest.raises(ValueError, match="25 tokens exceed the 24 learned positions"):
        forward(params, GPT2, jnp.zeros((1, 25), jnp.int32))
