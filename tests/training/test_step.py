"""The step as a function: what it computes, and what it leaves alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxllm.models import decoder_spec, forward
from jaxllm.models.config import MultiTokenConfig
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.job import pretraining_objective
from jaxllm.training.state import TrainState, initial_state
from jaxllm.training.step import make_evaluation, make_step

SPEC = decoder_spec(tiny.MODEL)
SGD = optax.sgd(0.5, momentum=0.9)


def jitted(*, model=tiny.MODEL, optimizer=SGD, **training):
    """The tiny model's step, by default with plain gradient descent, which leaves its gradients to be seen."""
    config = TrainingConfig(batch_size=8, **training)
    return jax.jit(make_step(next_token(model), optimizer, lambda n: 0.1 * (n + 1), config, dropout=model.dropout > 0))


def fresh(ema: bool = False, optimizer=SGD) -> TrainState:
    return initial_state(SPEC, optimizer, 0, ema)


def assert_close(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), left, right))


def with_weights(seed: int) -> dict[str, np.ndarray]:
    """A batch of rows with very different numbers of targets; one has none."""
    batch = tiny.batch(seed)
    share = np.array([0.0, 1.0, 0.2, 0.9, 0.5, 0.1, 1.0, 0.7])[:, None]
    batch["weights"] = (np.random.default_rng(seed).random((8, 16)) < share).astype(np.float32)
    return batch


@pytest.mark.parametrize("microbatches", [2, 8])
def test_accumulation_equals_the_large_batch(microbatches):
    whole, parts = jitted(grad_clip=0.0), jitted(grad_clip=0.0, accumulation=microbatches)
    batch = with_weights(3)
    one, in_one = whole(fresh(), batch)
    many, in_parts = parts(fresh(), batch)
    assert in_one.keys() == in_parts.keys()
    assert_close(in_one, in_parts, rtol=2e-6)
    moved = jax.tree.map(jnp.subtract, one.params, fresh().params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(moved)) > 1e-3
    assert_close(one.params, many.params, rtol=1e-5, atol=1e-7)
    # A mean of the microbatches' means would be another number.
    losses = [float(whole(fresh(), {k: v[i::8] for k, v in batch.items()})[1]["loss"]) for i in range(8)]
    assert abs(np.mean(losses) - float(in_one["loss"])) > 1e-2


def test_gradients_are_scaled_down_to_the_clip_and_never_up():
    batch = tiny.batch(0)
    start = fresh()
    free, free_metrics = jitted(grad_clip=0.0)(start, batch)
    norm = float(free_metrics["grad_norm"])
    size = lambda state: float(optax.tree.norm(jax.tree.map(jnp.subtract, state.params, start.params))) / 0.5  # noqa: E731
    assert size(free) == pytest.approx(norm, rel=1e-4)
    clipped, metrics = jitted(grad_clip=norm / 4)(start, batch)
    assert size(clipped) == pytest.approx(norm / 4, rel=1e-4)
    assert float(metrics["grad_norm"]) == pytest.approx(norm), "the norm that is logged is that before clipping"
    loose, _ = jitted(grad_clip=norm * 4)(start, batch)
    assert same(loose.params, free.params)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(poison):
    step = jitted(ema_decay=0.9)
    before, _ = step(fresh(ema=True), tiny.batch(0))
    batch = tiny.batch(1)
    batch["weights"][2, 3] = poison
    after, metrics = step(before, batch)
    assert not metrics["finite"]
    assert same((after.params, after.opt_state, after.ema), (before.params, before.opt_state, before.ema))
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (2, 1, 1)
    again, metrics = step(after, tiny.batch(2))
    assert metrics["finite"]
    assert (int(again.step), int(again.skipped)) == (3, 1)
    assert not same(again.params, after.params)


def test_an_infinite_gradient_of_a_finite_loss_is_left_out_too():
    def steep(params, batch, key=None):
        return jnp.sqrt(jnp.abs(params["x"]).sum()), {"weight": jnp.ones(())}

    step = make_step(steep, optax.sgd(0.1), lambda n: 0.1, TrainingConfig())
    params = {"x": jnp.zeros(3)}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, params, optax.sgd(0.1).init(params), None, jnp.zeros(2, jnp.uint32), zero)
    after, metrics = step(state, {})
    assert float(metrics["loss"]) == 0.0
    assert not np.isfinite(metrics["grad_norm"])
    assert (int(after.skipped), after.params["x"].tolist()) == (1, [0.0, 0.0, 0.0])


def test_moving_average_closed_form():
    step, state = jitted(ema_decay=0.75), fresh(ema=True)
    points = [state.params]
    for seed in range(4):
        state, _ = step(state, tiny.batch(seed))
        points.append(state.params)
    shares = [0.75**4, *(0.25 * 0.75 ** (4 - n) for n in (1, 2, 3, 4))]
    expected = jax.tree.map(lambda *xs: sum(share * x for share, x in zip(shares, xs, strict=True)), *points)
    assert_close(state.ema, expected, rtol=1e-5, atol=1e-7)
    assert not same(state.ema, state.params)


def test_the_learning_rate_that_is_logged_is_that_of_the_step():
    step, state = jitted(), fresh()
    for n in range(3):
        state, metrics = step(state, tiny.batch(n))
        assert float(metrics["learning_rate"]) == pytest.approx(0.1 * (n + 1))


def test_dropout_is_drawn_anew_each_step_and_the_same_again():
    model = replace(tiny.MODEL, dropout=0.5)
    step, batch = jitted(model=model, accumulation=2), tiny.batch(0)
    first, second = fresh(), replace(fresh(), step=jnp.ones((), jnp.int32))
    losses = [float(step(state, batch)[1]["loss"]) for state in (first, second, first)]
    assert losses[0] == losses[2] != losses[1]


def test_evaluation_sums_are_those_of_a_direct_computation():
    layout = Layout(make_mesh(MeshConfig()))
    lengths = np.arange(64) % 5
    evaluate = make_evaluation(next_token(tiny.MODEL), layout, lengths)
    batch, params = with_weights(7), fresh().params
    found = evaluate(params, {k: jax.device_put(v, layout.sharding("batch", "length")) for k, v in batch.items()})
    logits = forward(
        params, tiny.MODEL, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"]
    )
    nll = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["targets"][..., None], -1)[..., 0]
    counted = batch["weights"] > 0
    assert float(found["nll"]) == pytest.approx(nll[counted].sum(), rel=1e-5)
    assert float(found["weight"]) == counted.sum()
    assert float(found["bytes"]) == lengths[batch["targets"][counted]].sum()


def test_a_scheduled_objective_is_that_of_the_step():
    """Modules for further tokens at weight 1, from the third step on at 0: their parameters then stand still."""
    model = replace(tiny.MODEL, multi_token=MultiTokenConfig())
    training = TrainingConfig(
        steps=4, batch_size=8, multi_token_weight=1.0, multi_token_last_weight=0.0, multi_token_switch=0.5
    )
    objective = pretraining_objective(model, training)
    step = jax.jit(make_step(objective, optax.sgd(0.1), lambda n: 0.1, training))
    params = initialize(decoder_spec(model), jax.random.key(0))
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, params, optax.sgd(0.1).init(params), None, jnp.zeros(2, jnp.uint32), zero)
    moved = []
    for n in range(4):
        before = state.params
        state, metrics = step(state, tiny.batch(n))
        moved.append(not same(before.multi_token, state.params.multi_token))
        further = float(metrics["multi_token_nll_1"]) * (n < 2)
        assert float(metrics["loss"]) == pytest.approx(float(metrics["nll"]) + further, rel=1e-5)
    assert moved == [True, True, False, False]
    assert "multi_token_nll_1" in objective(params, tiny.batch(0))[1]
