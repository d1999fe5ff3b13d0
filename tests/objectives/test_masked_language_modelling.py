from dataclasses import replace
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, NormConfig
from jaxllm.models.config import EmbeddingConfig, EncoderConfig, HeadConfig, ResidualConfig
from jaxllm.models.declare import initialize
from jaxllm.models.encoder import encode, encoder_spec, masked_logits
from jaxllm.objectives.classification import classification
from jaxllm.objectives.masked_language_modelling import MaskingConfig, mask_tokens, masked_language_modelling

CONFIG = EncoderConfig(
    trunk=ModelConfig(
        vocab_size=130,
        context_length=32,
        d_model=32,
        num_layers=2,
        attention=AttentionConfig(num_heads=2, causal=False, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(d_ff=64, activation="gelu", bias=True),
        norm=NormConfig(kind="layernorm", bias=True),
        residual=ResidualConfig(norm="post"),
        positions="learned",
        embedding=EmbeddingConfig(norm=True),
        head=HeadConfig(bias=True),
    ),
    masked_head=True,
    pooler="tanh",
    num_classes=3,
)
MASKING = MaskingConfig(mask_token=128, special_tokens=(128, 129))


@pytest.fixture(scope="module")
def params():
    return initialize(encoder_spec(CONFIG), jax.random.key(0))


def batch_of(tokens, segments=None):
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return {
        "tokens": tokens,
        "segment_ids": jnp.ones_like(tokens) if segments is None else segments,
        "positions": positions,
    }


def test_which_tokens_are_hidden():
    tokens = np.random.default_rng(0).integers(0, 130, (200, 100))
    segments = np.where(np.arange(100) < 90, 1, 0)[None].repeat(200, 0)
    seen, chosen = mask_tokens(jnp.asarray(tokens, jnp.int32), segments, jax.random.key(0), MASKING, 130)
    assert not chosen[:, 90:].any() and not chosen[np.isin(tokens, [128, 129])].any()
    ordinary = (tokens < 128) & (segments > 0)
    assert chosen[ordinary].mean() == pytest.approx(0.15, abs=0.01)
    np.testing.assert_array_equal(seen[~chosen], tokens[~chosen])
    hidden, kept = (seen == 128) & chosen, (seen == tokens) & chosen
    assert hidden.sum() / chosen.sum() == pytest.approx(0.8, abs=0.03)
    assert kept.sum() / chosen.sum() == pytest.approx(0.1, abs=0.03)
    replaced = np.asarray(seen)[chosen & ~hidden & ~kept]
    assert len(np.unique(replaced)) > 100 and replaced.max() < 128


def test_the_loss_is_that_of_the_hidden_tokens(params):
    tokens = np.random.default_rng(1).integers(0, 128, (3, 32))
    batch = batch_of(tokens, jnp.asarray(np.array([[1] * 20 + [2] * 8 + [0] * 4] * 3)))
    params = params.replace(trunk=params.trunk.replace(head_bias=jnp.linspace(-2, 2, 130)))
    key = jax.random.key(5)
    loss, metrics = masked_language_modelling(CONFIG, MASKING)(params, batch, key)
    seen, chosen = mask_tokens(batch["tokens"], batch["segment_ids"], jax.random.split(key)[0], MASKING, 130)
    x = encode(params, CONFIG, seen, segment_ids=batch["segment_ids"], positions=batch["positions"])
    nll = optax.softmax_cross_entropy_with_integer_labels(masked_logits(params, CONFIG, x), batch["tokens"])
    assert float(loss) == pytest.approx(float(nll[chosen].mean()), rel=1e-5)
    assert float(metrics["weight"]) == chosen.sum() > 5


def test_without_a_key_it_is_always_the_same_choice(params):
    objective = jax.jit(masked_language_modelling(CONFIG, MASKING))
    batch = batch_of(np.random.default_rng(0).integers(0, 128, (2, 32)))
    assert objective(params, batch)[0] == objective(params, batch)[0]
    assert objective(params, batch)[0] != objective(params, batch, jax.random.key(0))[0]
    first = objective(params, batch, jax.random.key(0))[1]["weight"]
    assert len({float(first), *(float(objective(params, batch, jax.random.key(i))[1]["weight"]) for i in range(4))}) > 1
    empty = batch_of(np.zeros((2, 32)), jnp.zeros((2, 32), jnp.int32))
    assert float(objective(params, empty)[0]) == 0


def train(objective, params, batches, rate=3e-3):
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params, state, batch, key):
        (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(params, batch, key)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for number, batch in enumerate(batches):
        params, state, loss = step(params, state, batch, jax.random.key(number))
        losses.append(float(loss))
    return params, losses


def test_the_loss_falls_on_text(params):
    text = np.frombuffer(topics["booleans"].encode("ascii", "replace") * 5, np.uint8).astype(np.int32)
    random = np.random.default_rng(0)
    starts = random.integers(0, len(text) - 32, (60, 16))
    batches = [batch_of(text[row[:, None] + np.arange(32)]) for row in starts]
    _, losses = train(masked_language_modelling(CONFIG, MASKING), params, batches)
    assert losses[0] == pytest.approx(np.log(130), abs=0.5)
    assert np.mean(losses[-10:]) < losses[0] - 1.2


@pytest.mark.long
def test_classes_are_learnt(params):
    """The class is which of three letters a text has more of than of the others."""
    random = np.random.default_rng(0)

    def batch():
        labels = random.integers(0, 3, 16)
        tokens = random.integers(10, 60, (16, 12))
        tokens[:, 3:9] = labels[:, None]
        return batch_of(random.permuted(tokens, axis=1)) | {"labels": jnp.asarray(labels)}

    objective = classification(CONFIG)
    trained, losses = train(objective, params, [batch() for _ in range(30)])
    assert losses[0] == pytest.approx(np.log(3), abs=0.3) and np.mean(losses[-5:]) < 0.3
    _, metrics = objective(trained, batch())
    assert metrics["accuracy"] > 0.9 and metrics["weight"] == 16


def test_smoothed_labels_and_rows_that_do_not_count(params):
    tokens = np.random.default_rng(0).integers(0, 128, (3, 8))
    labelled = batch_of(tokens) | {"labels": jnp.array([[2], [0], [-1]])}
    two = batch_of(tokens[:2]) | {"labels": jnp.array([2, 0])}
    for smoothing in (0.0, 0.2):
        loss, metrics = classification(CONFIG, label_smoothing=smoothing)(params, labelled)
        wanted, other = classification(CONFIG, label_smoothing=smoothing)(params, two)
        assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
        assert float(metrics["weight"]) == 2 and float(metrics["nll"]) == pytest.approx(float(other["nll"]), rel=1e-5)
    assert float(loss) != pytest.approx(float(metrics["nll"]))


def test_what_is_refused():
    with pytest.raises(ValueError, match="set masked_head=true"):
        masked_language_modelling(replace(CONFIG, masked_head=False), MASKING)
    with pytest.raises(ValueError, match="set num_classes"):
        classification(replace(CONFIG, num_classes=0))
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        classification(CONFIG, label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"masking.rate must be in \(0, 1\], got 0"):
        MaskingConfig(rate=0.0)
    with pytest.raises(ValueError, match="are shares of one whole"):
        MaskingConfig(masked=0.8, replaced=0.3)
