"""How branches join the stream, and what stands around the blocks: each written out by hand."""

from dataclasses import replace
from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, NormConfig, decoder_spec, forward
from jaxllm.models.block import run_block
from jaxllm.models.config import EmbeddingConfig, HeadConfig, ResidualConfig
from jaxllm.models.declare import initialize
from jaxllm.models.decoder import hidden_states
from jaxllm.models.layer import Context
from jaxllm.models.layers import layer_of
from jaxllm.models.norm import normalize
from jaxllm.models.positions import sinusoids

CONFIG = ModelConfig(
    vocab_size=19,
    context_length=16,
    d_model=12,
    num_layers=4,
    attention=AttentionConfig(num_heads=3, num_kv_heads=1),
    mlp=MLPConfig(d_ff=20, activation="relu2"),
    norm=NormConfig(kind="layernorm", bias=True),
    init_std=0.3,
)
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 9))
CONTEXT = Context(jnp.arange(9)[None], None, None, 1)


def drawn(config):
    params = initialize(decoder_spec(config), jax.random.key(0))
    random = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + jnp.asarray(0.2 * random.normal(size=p.shape), jnp.float32), params)


@pytest.mark.parametrize(
    "residual",
    [
        ResidualConfig(),
        ResidualConfig(multiplier=0.3),
        ResidualConfig(norm="post"),
        ResidualConfig(norm="sandwich"),
        ResidualConfig(norm="branch"),
        ResidualConfig(parallel=True),
        ResidualConfig(parallel=True, shared_norm=True),
    ],
    ids=["pre", "multiplier", "post", "sandwich", "branch", "parallel", "shared norm"],
)
def test_a_block_by_hand(residual):
    config = replace(CONFIG, residual=residual)
    p = jax.tree.map(lambda x: x[0], drawn(config).segments[0][0])
    block = config.blocks()[0]
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 9, 12)), jnp.float32)
    norm = lambda weights, y: normalize(weights, config.norm, y)  # noqa: E731
    attend = lambda y: layer_of(block.mixer).apply(p.mixer, config, block.mixer, y, CONTEXT, None)[0]  # noqa: E731
    mlp = lambda y: layer_of(block.channel).apply(p.channel, config, block.channel, y, CONTEXT, None)[0]  # noqa: E731
    match residual:
        case ResidualConfig(parallel=True):
            second = p.mixer_norm if residual.shared_norm else p.channel_norm
            expected = x + attend(norm(p.mixer_norm, x)) + mlp(norm(second, x))
        case ResidualConfig(norm="pre"):
            expected = x + residual.multiplier * attend(norm(p.mixer_norm, x))
            expected = expected + residual.multiplier * mlp(norm(p.channel_norm, expected))
        case ResidualConfig(norm="post"):
            expected = norm(p.mixer_post_norm, x + attend(x))
            expected = norm(p.channel_post_norm, expected + mlp(expected))
        case ResidualConfig(norm="sandwich"):
            expected = x + norm(p.mixer_post_norm, attend(norm(p.mixer_norm, x)))
            expected = expected + norm(p.channel_post_norm, mlp(norm(p.channel_norm, expected)))
        case ResidualConfig(norm="branch"):
            expected = x + norm(p.mixer_post_norm, attend(x))
            expected = expected + norm(p.channel_post_norm, mlp(expected))
    mixed, cache, _ = run_block(p, config, block, x, CONTEXT, None, None)
    assert cache is None
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)


def test_only_norms_that_are_used_are_declared():
    named = {
        norm: [name for name in vars(spec) if name.endswith("norm") and getattr(spec, name) is not None]
        for norm in ("pre", "post", "sandwich", "branch")
        for spec in (decoder_spec(replace(CONFIG, residual=ResidualConfig(norm=norm))).segments[0][0],)
    }
    assert named["pre"] == ["mixer_norm", "channel_norm"]
    assert named["post"] == named["branch"] == ["mixer_post_norm", "channel_post_norm"]
    assert len(named["sandwich"]) == 4
    shared = replace(CONFIG, residual=ResidualConfig(parallel=True, shared_norm=True))
    assert decoder_spec(shared).segments[0][0].channel_norm is None


@pytest.mark.long
def test_stochastic_depth_skips_whole_branches_of_sequences():
    """Where each branch adds a one, what is left of a sequence is a sum of ones, each scaled by its chance to stay."""
    config = replace(
        CONFIG,
        num_layers=3,
        attention=AttentionConfig(num_heads=3, out_bias=True),
        mlp=MLPConfig(d_ff=4, bias=True),
        residual=ResidualConfig(stochastic_depth=0.5),
    )
    zeros = jax.tree.map(jnp.zeros_like, initialize(decoder_spec(config), jax.random.key(0)))
    (block,) = zeros.segments[0]
    block = block.replace(
        mixer=block.mixer.replace(out_bias=block.mixer.out_bias + 1),
        channel=block.channel.replace(down_bias=block.channel.down_bias + 1),
    )
    params = zeros.replace(segments=((block,),))
    tokens = jnp.zeros((3000, 2), jnp.int32)
    sums = np.asarray(hidden_states(params, config, tokens, dropout_key=jax.random.key(1)).stream_BTD)
    assert (sums == sums[:, :1, :1]).all(), "a sequence is kept or skipped as a whole"
    # Layer 0 always stays: 2. Layer 1 stays with chance 3/4, layer 2 with 1/2, two branches each.
    possible = {2 + a * 4 / 3 + b * 2 for a in range(3) for b in range(3)}
    found = set(np.round(sums[:, 0, 0].astype(float), 4))
    assert found == {float(np.round(value, 4)) for value in possible}
    # The mean is that without skipping: 6, with a standard error of sqrt(2 / 3 + 2) / sqrt(3000) = 0.03.
    assert abs(sums[:, 0, 0].mean() - 6) < 0.12
    still = hidden_states(params, config, tokens[:2]).stream_BTD
    np.testing.assert_allclose(still, 6, rtol=1e-6)


def test_a_block_may_lack_either_mixer():
    config = replace(CONFIG, pattern=(Block("none", "mlp"), Block("attention", "none")))
    spec = decoder_spec(config).segments[0]
    assert spec[0].mixer is None is spec[0].mixer_norm and spec[1].channel is None
    changed = np.where(np.arange(9) == 0, (TOKENS + 1) % 19, TOKENS)
    only_mlp = replace(CONFIG, pattern=(Block("none", "mlp"),))
    before, after = (np.asarray(forward(drawn(only_mlp), only_mlp, tokens)) for tokens in (TOKENS, changed))
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])
    assert np.abs(before[:, 0] - after[:, 0]).max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head_by_hand(tied):
    config = replace(
        CONFIG,
        pattern=(Block("none", "none"),),
        positions="learned",
        embedding=EmbeddingConfig(scale=sqrt(12), norm=True, position_offset=2, token_types=3),
        head=HeadConfig(bias=True, scale=0.5, softcap=3.0),
        tie_embeddings=tied,
    )
    p = drawn(config)
    x = p.embedding[TOKENS] * sqrt(12) + p.position[2 + np.arange(9)] + p.token_type[0]
    x = normalize(p.norm, config.norm, normalize(p.embedding_norm, config.norm, x))
    logits = x @ (p.embedding if tied else p.head).T + p.head_bias
    assert p.position.shape == (18, 12)
    np.testing.assert_allclose(forward(p, config, TOKENS), 3 * np.tanh(0.5 * logits / 3), rtol=1e-5, atol=1e-5)


def test_sinusoids():
    """Vaswani et al. 2017, section 3.5, unit by unit."""
    table = np.asarray(sinusoids(jnp.array([[0, 1, 7]]), 6))[0]
    for row, position in zip(table, (0, 1, 7), strict=True):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(row[2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6)
    config = replace(CONFIG, positions="sinusoidal")
    params = drawn(config)
    shifted = forward(params, config, TOKENS, positions=1 + jnp.broadcast_to(jnp.arange(9), (2, 9)))
    assert jnp.abs(shifted - forward(params, config, TOKENS)).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualConfig(stochastic_depth=1.0), r"stochastic_depth must be in \[0, 1\), got 1.0"),
        (lambda: ResidualConfig(norm="post", parallel=True), "norm=pre, not post"),
        (lambda: ResidualConfig(shared_norm=True), "shared_norm=true needs model.residual.parallel=true"),
    ],
)
def test_impossible_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
