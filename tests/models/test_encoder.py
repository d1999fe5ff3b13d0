from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, RopeConfig, encoder
from jaxllm.models.config import EmbeddingConfig, EncoderConfig, HeadConfig, ResidualConfig
from jaxllm.models.declare import initialize
from jaxllm.models.encoder import classify, encoder_spec, masked_logits, pool, unit_length

BOTH_WAYS = AttentionConfig(num_heads=3, causal=False, qkv_bias=True, out_bias=True)
BERT = EncoderConfig(
    trunk=ModelConfig(
        vocab_size=61,
        context_length=24,
        d_model=24,
        num_layers=2,
        attention=BOTH_WAYS,
        mlp=MLPConfig(d_ff=40, activation="gelu", bias=True),
        norm=NormConfig(kind="layernorm", bias=True, epsilon=1e-12),
        residual=ResidualConfig(norm="post"),
        positions="learned",
        embedding=EmbeddingConfig(norm=True, token_types=2),
        head=HeadConfig(bias=True),
        init_std=0.2,
    ),
    masked_head=True,
    pooler="tanh",
    num_classes=5,
)
WIDE = AttentionConfig(num_heads=2, causal=False, rope=RopeConfig(theta=1000.0))
NARROW = AttentionConfig(num_heads=2, causal=False, window=4, rope=RopeConfig(theta=50.0))
MODERNBERT = EncoderConfig(
    trunk=ModelConfig(
        vocab_size=61,
        context_length=24,
        d_model=24,
        num_layers=4,
        prologue=(Block(mixer=WIDE),),
        pattern=(Block(mixer=NARROW), Block(mixer=NARROW), Block(mixer=WIDE)),
        mlp=MLPConfig(d_ff=32, activation="gelu", gated=True),
        norm=NormConfig(kind="layernorm"),
        embedding=EmbeddingConfig(norm=True),
        head=HeadConfig(bias=True),
        init_std=0.2,
    ),
    first_norm=False,
    masked_head=True,
    transform_bias=False,
    pooler="transform",
    pooling="mean",
    num_classes=3,
)
ROBERTA = replace(
    BERT,
    trunk=replace(BERT.trunk, embedding=EmbeddingConfig(norm=True, token_types=1, position_offset=2)),
    padding_positions=True,
)
FAMILIES = {"bert": BERT, "roberta": ROBERTA, "modernbert": MODERNBERT}

encode = partial(jax.jit, static_argnums=1)(encoder.encode)
families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def params():
    return {name: initialize(encoder_spec(config), jax.random.key(0)) for name, config in FAMILIES.items()}


def tokens_of(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 61, (rows, length)).astype(np.int32)


@families
def test_every_token_sees_every_other(params, name):
    config, tokens = FAMILIES[name], tokens_of(1, 8)
    trunk = params[name].trunk

    def seen_by(table, position):
        table_rows = trunk.replace(embedding=table)
        return encode(params[name].replace(trunk=table_rows), config, np.arange(8)[None])[0, position, :7].sum()

    for position in (0, 7):
        gradient = jax.grad(seen_by)(trunk.embedding, position)
        assert (np.abs(gradient[:8]).max(-1) > 0).all()
    assert tokens.shape == (1, 8)


def test_a_local_layer_sees_half_a_window_on_either_side():
    one = replace(MODERNBERT.trunk, num_layers=1, prologue=(Block(mixer=NARROW),))
    config = replace(MODERNBERT, trunk=one)
    params = initialize(encoder_spec(config), jax.random.key(0))

    def seen(table):
        trunk = params.trunk.replace(embedding=table)
        return encode(params.replace(trunk=trunk), config, np.arange(12)[None])[0, 6, :7].sum()

    touched = np.abs(jax.grad(seen)(params.trunk.embedding)[:12]).max(-1) > 0
    assert touched.nonzero()[0].tolist() == [4, 5, 6, 7, 8]


@families
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(params, name, side):
    config, tokens = FAMILIES[name], tokens_of(2, 9)
    alone = encode(params[name], config, tokens)
    pad = ((0, 0), (0, 5) if side == "right" else (5, 0))
    padded, mask = np.pad(tokens, pad, constant_values=3), np.pad(np.ones((2, 9), bool), pad)
    # BERT's own positions count padding too: on the left they must be given.
    positions = np.maximum(np.cumsum(mask, 1) - 1, 0) if side == "left" and name == "bert" else None
    beside = encode(params[name], config, padded, mask=mask, positions=positions)
    np.testing.assert_allclose(beside[mask].reshape(alone.shape), alone, atol=2e-5)


@families
def test_packed_texts_do_not_see_each_other(params, name):
    config, first, second = FAMILIES[name], tokens_of(1, 7), tokens_of(1, 5, seed=1)
    together = encode(
        params[name],
        config,
        np.concatenate([first, second, [[0, 0]]], 1),
        segment_ids=np.array([[1] * 7 + [2] * 5 + [0] * 2]),
        positions=np.array([[*range(7), *range(5), 0, 0]]),
    )
    np.testing.assert_allclose(together[:, :7], encode(params[name], config, first), atol=2e-5)
    np.testing.assert_allclose(together[:, 7:12], encode(params[name], config, second), atol=2e-5)


def test_token_types_count(params):
    tokens = tokens_of(1, 6)
    plain = encode(params["bert"], BERT, tokens)
    np.testing.assert_array_equal(plain, encode(params["bert"], BERT, tokens, token_types=np.zeros_like(tokens)))
    assert np.abs(plain - encode(params["bert"], BERT, tokens, token_types=np.ones_like(tokens))).max() > 0.01


def test_only_the_first_attention_of_modernbert_has_no_norm(params):
    first, pattern = params["modernbert"].trunk.segments
    assert first[0].mixer_norm is None and first[0].channel_norm is not None
    assert all(block.mixer_norm is not None for block in pattern)


def test_pooling():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    mask = np.array([[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(pool(x, mask, "mean"), [[1, 2], [9, 10]])
    np.testing.assert_array_equal(pool(x, None, "mean"), x.mean(1))
    np.testing.assert_array_equal(pool(x, mask, "first"), [[0, 1], [6, 7]])
    np.testing.assert_array_equal(pool(x, np.zeros((2, 3), bool), "mean"), np.zeros((2, 2)))
    np.testing.assert_allclose(unit_length(jnp.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown pooling 'max': expected first or mean"):
        pool(x, mask, "max")


@families
def test_heads(params, name):
    config, tokens = FAMILIES[name], tokens_of(2, 6)
    x = encode(params[name], config, tokens)
    assert masked_logits(params[name], config, x).shape == (2, 6, 61)
    assert classify(params[name], config, x).shape == (2, config.num_classes)


def test_what_is_refused(params):
    tokens = tokens_of(1, 6)
    bare = replace(BERT, masked_head=False, pooler="none", num_classes=0)
    weights = initialize(encoder_spec(bare), jax.random.key(0))
    x = encode(weights, bare, tokens)
    with pytest.raises(ValueError, match="masked_head=false"):
        masked_logits(weights, bare, x)
    with pytest.raises(ValueError, match="num_classes=0"):
        classify(weights, bare, x)
    with pytest.raises(ValueError, match="give one of them"):
        encode(params["bert"], BERT, tokens, mask=tokens > 0, segment_ids=tokens)
    with pytest.raises(ValueError, match="25 tokens exceed the 24 learned positions"):
        encode(params["bert"], BERT, tokens_of(1, 25))
    with pytest.raises(ValueError, match=r"set trunk\.attention\.causal=false"):
        EncoderConfig(trunk=ModelConfig(vocab_size=61))
    with pytest.raises(ValueError, match=r"name it in trunk\.prologue"):
        replace(BERT, first_norm=False)
    with pytest.raises(ValueError, match="a number of classes or 0, got -1"):
        replace(BERT, num_classes=-1)
