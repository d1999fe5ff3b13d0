from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec, forward
from jaxllm.models.config import HeadConfig, MuPConfig
from jaxllm.models.declare import abstract, initialize
from jaxllm.objectives.next_token import next_token

CONFIG = ModelConfig(
    vocab_size=64,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=2),
    mlp=MLPConfig(d_ff=32, activation="silu", gated=True),
)


@pytest.fixture(scope="module")
def params():
    return initialize(decoder_spec(CONFIG), jax.random.key(0))


def batch_of(pieces, length=16):
    """One row holding these documents, padded."""
    row = {name: np.zeros((1, length), np.int32) for name in ("tokens", "targets", "segment_ids", "positions")}
    row["weights"] = np.zeros((1, length), np.float32)
    start = 0
    for number, piece in enumerate(pieces, start=1):
        stop = start + len(piece) - 1
        row["tokens"][0, start:stop], row["targets"][0, start:stop] = piece[:-1], piece[1:]
        row["segment_ids"][0, start:stop], row["positions"][0, start:stop] = number, np.arange(stop - start)
        row["weights"][0, start:stop] = 1
        start = stop
    return row


def test_a_packed_row_costs_what_its_documents_cost_alone(params):
    objective = jax.jit(next_token(CONFIG))
    pieces = [np.array([0, 5, 9, 5, 0]), np.array([0, 60, 61, 62, 63, 0]), np.array([0, 7, 0])]
    together, metrics = objective(params, batch_of(pieces))
    alone = [objective(params, batch_of([piece])) for piece in pieces]
    total = sum(float(loss * m["weight"]) for loss, m in alone)
    assert float(metrics["weight"]) == sum(len(piece) - 1 for piece in pieces)
    assert float(together * metrics["weight"]) == pytest.approx(total, rel=1e-5)


def test_padding_counts_for_nothing(params):
    loss, metrics = next_token(CONFIG)(params, batch_of([]))
    assert float(loss) == 0 and float(metrics["weight"]) == 0


def stack(*rows):
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def test_rows_without_weight_change_neither_loss_nor_gradient(params):
    objective = jax.jit(jax.value_and_grad(next_token(CONFIG, z_loss=0.1), has_aux=True))
    row = batch_of([np.array([0, 5, 9, 5, 0])])
    silent = batch_of([np.arange(14)])
    silent["weights"][:] = 0
    (alone, metrics), grads = objective(params, stack(row, row))
    (padded, padded_metrics), padded_grads = objective(params, stack(row, silent))
    assert float(alone) == pytest.approx(float(padded), rel=1e-6)
    assert float(metrics["weight"]) == 2 * float(padded_metrics["weight"]) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), grads, padded_grads)
    (nothing, _), zero = objective(params, stack(silent, silent))
    assert float(nothing) == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(zero))


def test_the_loss_is_of_the_logits_that_the_model_gives():
    """Scale, softcap and bias of the head, and the multiplier of µP: values and gradients through `forward`."""
    config = replace(
        CONFIG, head=HeadConfig(bias=True, scale=0.7, softcap=4.0), mup=MuPConfig(base_width=4), init_std=0.5
    )
    params = initialize(decoder_spec(config), jax.random.key(0))
    params = params.replace(head_bias=jnp.sin(jnp.arange(64.0)))
    batch = batch_of([np.array([0, 5, 9, 5, 0]), np.array([0, 60, 61, 0])])

    def through_logits(params):
        places = {"positions": batch["positions"], "segment_ids": batch["segment_ids"]}
        log_p = jax.nn.log_softmax(forward(params, config, batch["tokens"], **places))
        nll = -jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        return (nll * batch["weights"]).sum() / batch["weights"].sum()

    expected = jax.jit(jax.value_and_grad(through_logits))(params)
    (loss, _), grads = jax.jit(jax.value_and_grad(next_token(config), has_aux=True))(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), (loss, grads), expected)
    assert grads.head_bias.any()


def test_metrics_are_those_of_the_logits(params):
    batch = batch_of([np.array([0, 5, 9, 5, 0]), np.array([0, 60, 61, 0])])
    batch["weights"][0, :3] = 0.5
    logits = np.asarray(
        forward(params, CONFIG, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
    )[0]
    log_z = np.log(np.exp(logits).sum(-1))
    weights, targets = batch["weights"][0], batch["targets"][0]
    mean = lambda values: (values * weights).sum() / weights.sum()  # noqa: E731
    nll = mean(log_z - logits[np.arange(16), targets])
    loss, metrics = next_token(CONFIG, z_loss=0.25)(params, batch)
    assert float(metrics["nll"]) == pytest.approx(nll, rel=1e-5)
    assert float(loss) == pytest.approx(nll + 0.25 * mean(log_z**2), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(mean(logits.argmax(-1) == targets), abs=1e-6)
    right = batch | {"targets": logits.argmax(-1)[None].astype(np.int32)}
    assert float(next_token(CONFIG)(params, right)[1]["accuracy"]) == pytest.approx(1)


def test_no_array_of_a_step_is_as_large_as_the_logits():
    """Of any floating type, in any shape: neither forward nor backward of the whole model, remat or not."""
    config = replace(CONFIG, vocab_size=2048)
    batch = {name: np.repeat(row, 4, axis=0) for name, row in batch_of([np.arange(16)]).items()}
    spec = abstract(decoder_spec(config))

    def largest(objective):
        jaxpr = jax.make_jaxpr(jax.value_and_grad(objective, has_aux=True))(spec, batch)
        floats = [v for v in all_outputs(jaxpr.jaxpr) if jnp.issubdtype(v.dtype, jnp.floating)]
        return max(v.size for v in floats)

    def whole_logits(params, batch):
        logits = forward(params, config, batch["tokens"])
        return jax.nn.log_softmax(logits)[..., 0].sum(), {}

    everything = 4 * 16 * 2048
    assert largest(whole_logits) == everything, "the search finds them where they are"
    for remat in ("none", "full"):
        assert largest(next_token(config, z_loss=0.1, remat=remat)) < everything


def all_outputs(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval for v in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from all_outputs(getattr(inner, "jaxpr", inner))


def test_a_fresh_model_knows_nothing(params):
    random = np.random.default_rng(0)
    loss, _ = next_token(CONFIG)(params, batch_of([random.integers(0, 64, 17)]))
    assert float(loss) == pytest.approx(np.log(64), rel=0.02)


def test_a_key_turns_dropout_on(params):
    objective = next_token(replace(CONFIG, dropout=0.5))
    batch = batch_of([np.arange(12)])
    quiet, again = objective(params, batch)[0], objective(params, batch, None)[0]
    assert quiet == again != objective(params, batch, jax.random.key(0))[0]
    assert jnp.isfinite(quiet)
