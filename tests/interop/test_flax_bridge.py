"""The same model as an NNX module, as a Linen module, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxllm.interop.flax_bridge import LinenModel, from_linen, from_nnx, to_linen, to_nnx
from jaxllm.models import AttentionConfig, Block, MLPConfig, ModelConfig, decoder_spec, forward
from jaxllm.models.declare import initialize

CONFIG = ModelConfig(
    vocab_size=31,
    context_length=16,
    d_model=12,
    num_layers=3,
    pattern=(Block(), Block(mixer=AttentionConfig(num_heads=3, window=4), channel="none")),
    attention=AttentionConfig(num_heads=2, num_kv_heads=1),
    mlp=MLPConfig(d_ff=20, activation="silu", gated=True),
    tie_embeddings=False,
    init_std=0.3,
)
TOKENS = np.random.default_rng(0).integers(0, 31, (2, 9))


@pytest.fixture(scope="module")
def params():
    return initialize(decoder_spec(CONFIG), jax.random.key(0))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_nnx_there_and_back(params):
    module = to_nnx(CONFIG, params)
    np.testing.assert_allclose(nnx.jit(module)(TOKENS), forward(params, CONFIG, TOKENS), rtol=1e-5, atol=1e-5)
    config, back = from_nnx(module)
    assert config == CONFIG
    assert_equal(back, params)
    assert module.params["segments"]["0"]["0"]["mixer"]["query"].axes == ("layers", "embed", "heads", "head_dim")


def test_nnx_trains(params):
    module = to_nnx(CONFIG, params)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        def loss(module):
            logits = module(TOKENS[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[:, 1:]).mean()

        value, grads = nnx.value_and_grad(loss)(module)
        optimizer.update(module, grads)
        return value

    losses = [float(step(module, optimizer)) for _ in range(8)]
    assert losses[-1] < losses[0] - 0.5
    _, trained = from_nnx(module)
    assert jnp.abs(trained.embedding - params.embedding).max() > 1e-3
    assert jnp.abs(params.embedding).sum() > 0, "the model it was made from is still there"


def test_linen_there_and_back(params):
    module, variables = to_linen(CONFIG, params)
    np.testing.assert_allclose(module.apply(variables, TOKENS), forward(params, CONFIG, TOKENS), rtol=1e-5, atol=1e-5)
    config, back = from_linen(module, variables)
    assert config == CONFIG
    assert_equal(back, params)


def test_linen_initializes_what_jaxllm_does():
    variables = LinenModel(CONFIG).init(jax.random.key(3), TOKENS)
    _, drawn = from_linen(LinenModel(CONFIG), variables)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(lambda p: p.shape, decoder_spec(CONFIG))
    assert 0.2 < float(drawn.embedding.std()) < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("head"), "missing head"),
        (lambda v: v.update(heads=1), "unknown heads"),
        (lambda v: v.update(head=np.zeros((3, 4))), r"head: expected \(31, 12\), found \(3, 4\)"),
    ],
)
def test_foreign_variables_are_named(params, change, message):
    module, variables = to_linen(CONFIG, params)
    change(variables["params"])
    with pytest.raises(ValueError, match=message):
        from_linen(module, variables)
