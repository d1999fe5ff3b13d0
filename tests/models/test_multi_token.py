from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec, forward, hidden_states
from jaxllm.models.config import Block, MoEConfig, MultiTokenConfig
from jaxllm.models.declare import count, initialize
from jaxllm.models.decoder import unembed
from jaxllm.models.drafting import draft
from jaxllm.models.norm import normalize
from jaxllm.objectives.multi_token import further_targets
from jaxllm.objectives.next_token import next_token, switched
from tests.training import tiny

BASE = replace(tiny.MODEL, num_layers=2)
CONFIG = replace(BASE, multi_token=MultiTokenConfig(depth=2))
PARALLEL = replace(BASE, multi_token=MultiTokenConfig(depth=2, kind="parallel"))


def drawn(config):
    return initialize(decoder_spec(config), jax.random.key(0))


@pytest.fixture(scope="module")
def params():
    return drawn(CONFIG)


def test_the_target_of_depth_k_is_k_tokens_further_and_in_the_same_document():
    batch = {
        "tokens": np.array([[10, 11, 12, 13, 20, 21, 0, 0]]),
        "targets": np.array([[11, 12, 13, 14, 21, 22, 0, 0]]),
        "weights": np.array([[1, 1, 1, 0.5, 1, 1, 0, 0]]),
        "segment_ids": np.array([[1, 1, 1, 1, 2, 2, 0, 0]]),
        "positions": np.array([[0, 1, 2, 3, 0, 1, 0, 0]]),
    }
    targets, weights = further_targets(batch, 1)
    assert targets[0, :3].tolist() == [12, 13, 14] and int(targets[0, 4]) == 22
    assert weights.tolist() == [[1, 1, 0.5, 0, 1, 0, 0, 0]]
    targets, weights = further_targets(batch, 2)
    assert targets[0, :2].tolist() == [13, 14]
    assert weights.tolist() == [[1, 0.5, 0, 0, 0, 0, 0, 0]]
    assert not further_targets(batch, 9)[1].any()
    # A document that was cut goes on in another piece of the row under the same number, but not at these positions.
    cut = batch | {"positions": np.array([[0, 1, 7, 8, 0, 1, 0, 0]])}
    assert further_targets(cut, 1)[1].tolist() == [[1, 0, 0.5, 0, 1, 0, 0, 0]]


@pytest.mark.parametrize("config", [CONFIG, PARALLEL], ids=["sequential", "parallel"])
def test_the_loss_is_that_of_the_modules_written_out(config):
    """Module by module over whole rows, from the equations, with nothing shifted or masked in place."""
    params, batch = drawn(config), tiny.batch(3)
    loss, metrics = jax.jit(next_token(config, multi_token_weight=0.5))(params, batch)
    plain = jax.jit(next_token(BASE))(params.replace(multi_token=None), batch)[0]
    # Both documents of a row, each by itself.
    tokens, targets = (batch[name].reshape(-1, 8) for name in ("tokens", "targets"))
    text = np.concatenate([tokens, targets[:, -1:]], axis=1)
    hidden = hidden_states(params, BASE, tokens)
    single = replace(BASE, num_layers=1)
    state, depths = hidden.x_BTD, []
    for k, module in enumerate(params.multi_token, 1):
        entering = hidden.stream_BTD[:, : 8 - k]
        if config is CONFIG:
            embedded = normalize(module.embedding_norm, BASE.norm, params.embedding[text[:, k:8]])
            states = normalize(module.hidden_norm, BASE.norm, state[:, : 8 - k])
            entering = jnp.concatenate([embedded, states], -1) @ module.projection
        block = params.replace(segments=(module.blocks,), norm=module.norm)
        state = hidden_states(block, single, tokens[:, : 8 - k], embeddings=entering).x_BTD
        log_p = jax.nn.log_softmax(unembed(params, BASE, state))
        nll = -jnp.take_along_axis(log_p, jnp.asarray(text[:, k + 1 :, None]), -1).sum()
        assert float(metrics[f"multi_token_nll_{k}"]) == pytest.approx(float(nll) / batch["weights"].sum(), rel=1e-4)
        depths.append(float(nll) / batch["weights"].sum())
    assert float(loss) == pytest.approx(float(plain) + 0.5 * np.mean(depths), rel=1e-5)


def test_no_modules_are_the_model_without_them_to_the_bit(params):
    none = replace(BASE, multi_token=MultiTokenConfig(depth=0))
    assert decoder_spec(none).multi_token is None
    batch = tiny.batch(0)
    run = lambda config, **s: jax.jit(jax.value_and_grad(next_token(config, **s), has_aux=True))  # noqa: E731
    base = run(BASE)(drawn(BASE), batch)
    jax.tree.map(np.testing.assert_array_equal, run(none)(drawn(none), batch), base)
    # Modules change neither how the rest starts nor what the model says.
    jax.tree.map(np.testing.assert_array_equal, params.replace(multi_token=None), drawn(BASE))
    np.testing.assert_array_equal(forward(params, CONFIG, batch["tokens"]), forward(drawn(BASE), BASE, batch["tokens"]))


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_parameters_in_closed_form_and_none_twice(kind):
    D, F, K, depth = 16, 32, 8, 3
    config = replace(BASE, multi_token=MultiTokenConfig(depth=depth, kind=kind))
    block = D * 2 * K + 2 * D * K + 2 * K * D + 3 * D * F + 2 * D
    joining = 2 * D * D + 2 * D if kind == "sequential" else 0
    assert count(decoder_spec(config)) - count(decoder_spec(BASE)) == depth * (block + joining + D)
    shapes = [leaf.shape for leaf in jax.tree.leaves(decoder_spec(config))]
    assert shapes.count((64, 16)) == 1, "one table for tokens, embedding and head of all"


@pytest.mark.parametrize("config", [CONFIG, PARALLEL], ids=["sequential", "parallel"])
def test_gradients_reach_everything_and_the_weight_scales_them(config):
    params, batch = drawn(config), tiny.batch(0)

    loss = lambda params, weight: next_token(config, multi_token_weight=weight)(params, batch)  # noqa: E731
    grad = jax.jit(jax.grad(loss, has_aux=True))
    none, some, double = (grad(params, weight)[0] for weight in (0.0, 0.5, 1.0))
    assert all(leaf.any() for leaf in jax.tree.leaves(some))
    assert not any(leaf.any() for leaf in jax.tree.leaves(none.multi_token))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(2 * a, b, rtol=1e-4, atol=1e-7), some.multi_token, double.multi_token
    )


def test_the_weight_is_one_constant_and_then_another():
    assert [float(switched(0.3, 0.1, 5)(jnp.int32(step))) for step in (0, 4, 5, 9)] == pytest.approx(
        [0.3, 0.3, 0.1, 0.1]
    )


def test_a_module_of_a_model_with_experts_has_experts():
    moe = MoEConfig(num_experts=4, top_k=2, d_ff=8, balance_rate=0.0, load_loss=1.0)
    config = replace(CONFIG, prologue=(Block(),), pattern=(Block(channel=moe),))
    params = drawn(config)
    assert params.multi_token[0].blocks[0].channel.experts.up.shape == (1, 4, 16, 8)
    _, metrics = jax.jit(next_token(config))(params, tiny.batch(0))
    assert [load.shape for load in metrics["load"]] == [(1, 4)] * 3
    assert float(metrics["router_loss"]) == pytest.approx(3, rel=0.2)


def test_documents_do_not_see_each_other(params):
    batch, run = tiny.batch(0), jax.jit(jax.grad(next_token(CONFIG), has_aux=True))
    first = batch | {"weights": batch["weights"] * (batch["segment_ids"] == 1)}
    other = {name: values.copy() for name, values in first.items()}
    for name in ("tokens", "targets"):
        other[name][:, 8:] = (other[name][:, 8:] + 5) % 64
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), run(params, first), run(params, other)
    )


@pytest.mark.long
def test_drafts_of_a_model_that_knows_its_text_are_accepted():
    """A language of one sentence: the modules learn to say what the main model will say."""
    config = replace(CONFIG, vocab_size=16, d_model=32, attention=AttentionConfig(num_heads=2), mlp=MLPConfig(d_ff=64))
    sentence = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    starts = np.random.default_rng(0).integers(0, 8, 16)
    text = np.stack([np.resize(np.roll(sentence, -s), 17) for s in starts]).astype(np.int32)
    batch = {
        "tokens": text[:, :-1],
        "targets": text[:, 1:],
        "weights": np.ones((16, 16), np.float32),
        "segment_ids": np.ones((16, 16), np.int32),
        "positions": np.broadcast_to(np.arange(16, dtype=np.int32), (16, 16)),
    }
    optimizer, objective = optax.adam(1e-2), next_token(config, multi_token_weight=1.0)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            grads, _ = jax.grad(objective, has_aux=True)(params, batch)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 60)[0][0]

    @jax.jit
    def accepted(params, tokens):
        drafted = draft(params, config, hidden_states(params, config, tokens), tokens)
        checked = forward(params, config, jnp.concatenate([tokens, drafted], axis=1)).argmax(-1)
        return drafted, checked[:, tokens.shape[1] - 1 : -1] == drafted

    untrained = drawn(config)
    params, tokens = train(untrained), text[:, :9]
    drafted, right = accepted(params, tokens)
    assert drafted.shape == (16, 3)
    assert right[:, 0].all(), "the first is the main model's own"
    assert right[:, 1:].mean() > 0.9
    assert (drafted == text[:, 9:12]).mean() > 0.9
    assert accepted(untrained, tokens)[1][:, 1:].mean() < 0.5


def test_a_model_without_modules_does_not_draft():
    params, tokens = drawn(BASE), jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ValueError, match="this model has no multi-token modules to draft with"):
        draft(params, BASE, hidden_states(params, BASE, tokens), tokens)
    with pytest.raises(ValueError, match="model.multi_token.depth must not be negative, got -1"):
        MultiTokenConfig(depth=-1)
    assert ModelConfig().multi_token is None
