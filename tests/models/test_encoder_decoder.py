import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, NormConfig, encoder_decoder
from jaxllm.models.config import (
    CrossAttentionConfig,
    EmbeddingConfig,
    EncoderDecoderConfig,
    HeadConfig,
    RelativeBiasConfig,
    ResidualConfig,
)
from jaxllm.models.config.encoder_decoder import decoder_pattern
from jaxllm.models.declare import count, initialize
from jaxllm.models.encoder_decoder import encoder_decoder_spec, forward, shift_right, start_cache, unembed

ENCODER = ModelConfig(
    vocab_size=51,
    context_length=20,
    d_model=24,
    num_layers=2,
    attention=AttentionConfig(num_heads=3, head_dim=10, causal=False, scale=1.0),
    mlp=MLPConfig(d_ff=40, activation="relu"),
    positions="none",
    head=HeadConfig(scale=24**-0.5),
    init_std=0.3,
)
T5 = EncoderDecoderConfig(
    encoder=ENCODER,
    decoder=replace(
        ENCODER,
        num_layers=6,
        pattern=decoder_pattern(CrossAttentionConfig(num_heads=3, head_dim=10, scale=1.0)),
        attention=replace(ENCODER.attention, causal=True),
    ),
    encoder_bias=RelativeBiasConfig(8, 12),
    decoder_bias=RelativeBiasConfig(8, 12, bidirectional=False),
)
READER = ModelConfig(
    vocab_size=51,
    context_length=20,
    d_model=24,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, causal=False, qkv_bias=True, out_bias=True),
    mlp=MLPConfig(d_ff=40, activation="gelu", bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    residual=ResidualConfig(norm="post"),
    positions="learned",
    embedding=EmbeddingConfig(norm=True, position_offset=2, scale=24**0.5),
    head=HeadConfig(bias=True),
    init_std=0.3,
)
BART = EncoderDecoderConfig(
    encoder=READER,
    decoder=replace(
        READER,
        num_layers=4,
        pattern=decoder_pattern(CrossAttentionConfig(num_heads=4, qkv_bias=True, out_bias=True)),
        attention=replace(READER.attention, causal=True),
    ),
    start_token=2,
    end_token=2,
    pad_token=1,
)
FAMILIES = {"t5": T5, "bart": BART}
families = pytest.mark.parametrize("name", FAMILIES)
encode = partial(jax.jit, static_argnums=1)(encoder_decoder.encode)
decode = partial(jax.jit, static_argnums=1)(encoder_decoder.decode)

RANDOM = np.random.default_rng(0)
SOURCE, TARGET = RANDOM.integers(0, 51, (2, 9)), RANDOM.integers(0, 51, (2, 7))
MASK = np.array([[True] * 9, [True] * 5 + [False] * 4])


@pytest.fixture(scope="module")
def params():
    return {name: initialize(encoder_decoder_spec(config), jax.random.key(0)) for name, config in FAMILIES.items()}


def test_one_table_serves_both_stacks_and_the_head(params):
    spec = encoder_decoder_spec(T5)
    assert spec.encoder.embedding is spec.decoder.embedding is spec.decoder.head is None
    attention, D, F = 4 * 24 * 30, 24, 40
    layers = 2 * (attention + 2 * D * F + 2 * D) + 3 * (2 * attention + 2 * D * F + 3 * D)
    assert count(spec) == 51 * D + layers + 2 * D + 2 * 8 * 3


@families
def test_a_cache_filled_in_pieces_is_the_whole(params, name):
    config, p = FAMILIES[name], params[name]
    memory = encode(p, config, SOURCE, mask=MASK)
    whole = unembed(p, config, decode(p, config, TARGET, memory=memory).x_BTD)
    cache, pieces = start_cache(p, config, memory, 11), []
    for piece in np.split(TARGET, [3, 5, 6], axis=1):
        hidden = decode(p, config, piece, cache=cache)
        cache, pieces = hidden.cache, [*pieces, unembed(p, config, hidden.x_BTD)]
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-4)
    assert cache.length_B.tolist() == [7, 7]


@families
def test_the_decoder_sees_the_past_and_the_whole_source(params, name):
    config, p = FAMILIES[name], params[name]
    source, target = np.arange(6)[None], np.arange(10, 16)[None]

    def score(table):
        weights = p.replace(embedding=table)
        hidden = decode(weights, config, target, memory=encode(weights, config, source))
        return hidden.x_BTD[0, 3, :7].sum()

    touched = np.abs(jax.grad(score)(p.embedding)).max(-1) > 0
    assert touched[:6].all(), "the source"
    assert touched[10:16].tolist() == [True] * 4 + [False] * 2


@families
def test_padding_of_the_source_changes_nothing(params, name):
    config, p = FAMILIES[name], params[name]
    padded = forward(p, config, SOURCE, TARGET, mask=MASK)
    alone = forward(p, config, SOURCE[1:, :5], TARGET[1:])
    np.testing.assert_allclose(padded[1:], alone, rtol=1e-4, atol=1e-4)
    assert np.abs(padded[1:] - forward(p, config, SOURCE[1:], TARGET[1:])).max() > 0.01


@families
def test_packed_pairs_do_not_see_each_other(params, name):
    config, p = FAMILIES[name], params[name]
    numbers, source = np.array([[1] * 5 + [2] * 4]), np.array([[*range(5), *range(4)]])
    own, target = np.array([[1] * 3 + [2] * 4]), np.array([[*range(3), *range(4)]])
    memory = encode(p, config, SOURCE[:1], segment_ids=numbers, positions=source)
    packed = decode(p, config, TARGET[:1], memory=memory, segment_ids=own, positions=target).x_BTD
    for s, t in ((slice(5), slice(3)), (slice(5, 9), slice(3, 7))):
        alone = decode(p, config, TARGET[:1, t], memory=encode(p, config, SOURCE[:1, s])).x_BTD
        np.testing.assert_allclose(packed[:, t], alone, rtol=1e-4, atol=1e-4)


def test_shift_right():
    assert shift_right(BART, jnp.array([[7, 8, 9]])).tolist() == [[2, 7, 8]]


def test_what_is_refused(params):
    memory = encode(params["bart"], BART, SOURCE)
    with pytest.raises(ValueError, match="give exactly one of them"):
        decode(params["bart"], BART, TARGET)
    with pytest.raises(ValueError, match="give exactly one of them"):
        decode(params["bart"], BART, TARGET, memory=memory, cache=start_cache(params["bart"], BART, memory, 8))
    with pytest.raises(ValueError, match="mask and segment_ids both say what is padding"):
        encode(params["bart"], BART, SOURCE, mask=MASK, segment_ids=SOURCE)
    for run in (lambda x: encode(params["bart"], BART, x), lambda x: decode(params["bart"], BART, x, memory=memory)):
        with pytest.raises(ValueError, match="21 tokens exceed the 20 learned positions"):
            run(np.zeros((2, 21), int))
    for values, complaint in [
        ({"encoder": replace(ENCODER, vocab_size=52)}, "got 52 x 24 and 51 x 24"),
        ({"encoder": replace(ENCODER, attention=replace(ENCODER.attention, causal=True))}, "encoder.attention.causal"),
        ({"decoder": replace(T5.decoder, pattern=ENCODER.pattern)}, "no block of the decoder looks at the encoder"),
        ({"decoder_bias": T5.encoder_bias}, "decoder_bias.bidirectional must be False"),
    ]:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            replace(T5, **values)
