"""Router losses in the objective, and the balance of loads without a loss."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.models import decoder_spec
from jaxllm.models.config import Block, MoEConfig, MultiTokenConfig
from jaxllm.models.declare import decay_mask, initialize
from jaxllm.objectives.next_token import next_token
from jaxllm.objectives.routing import settle_routing
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer
from jaxllm.training.state import abstract_state, initial_state
from jaxllm.training.step import jit_step, make_step
from tests.training import tiny

MOE = MoEConfig(num_experts=4, top_k=1, d_ff=8, router="sigmoid", balance_rate=0.01)
CONFIG = replace(tiny.MODEL, prologue=(Block(),), pattern=(Block(channel=MOE),))


def states_after(config, steps, *, skew=0.0, mesh=None, **training):
    """The states and metrics of each step; `skew` pushes all tokens towards expert 0."""
    spec = decoder_spec(config)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=0, weight_decay=0.5), spec, 100)
    settings = TrainingConfig(batch_size=8, ema_decay=0.5, **training)
    step = make_step(
        next_token(config), optimizer, optax.constant_schedule(1e-3), settings, after_update=settle_routing(config)
    )
    state = initial_state(spec, optimizer, seed=0, ema=True)
    channel = state.params.segments[1][0].channel
    bias = channel.selection_bias.at[:, 0].add(skew)
    # Two arrays, for the state is donated.
    state = replace(state, params=with_bias(state.params, bias), ema=with_bias(state.ema, jnp.copy(bias)))
    if mesh is not None:
        layout = Layout(make_mesh(mesh))
        shardings = abstract_state(spec, optimizer, layout, ema=True)[1]
        step, state = jit_step(step, layout, shardings), jax.device_put(state, shardings)
    else:
        step = jax.jit(step)
    history = []
    for n in range(steps):
        batch = tiny.batch(n)
        batch["weights"][:3, 4:] = 0  # microbatches of different weight
        batch["segment_ids"][5, 8:] = 0
        if mesh is not None:
            batch = jax.device_put(batch, layout.sharding("batch", "length"))
        state, metrics = step(state, batch)
        # A donated state is gone with the next step.
        history.append(jax.device_get((state, metrics)))
    return history


def with_bias(params, bias):
    blocks = params.segments[1]
    moe = blocks[0].channel.replace(selection_bias=bias)
    return params.replace(segments=(params.segments[0], (blocks[0].replace(channel=moe),)))


def bias_of(params):
    return np.asarray(params.segments[1][0].channel.selection_bias)


@pytest.mark.long
def test_the_balancer_evens_a_skewed_load_and_the_control_does_not():
    balanced = states_after(CONFIG, 60, skew=0.3)
    control = states_after(replace(CONFIG, pattern=(Block(channel=replace(MOE, balance_rate=0.0)),)), 60, skew=0.3)
    first, last = ([float(m["max_load"]) for _, m in run] for run in (balanced, control))
    assert first[0] == last[0] == pytest.approx(4.0), "all tokens want expert 0"
    assert np.mean(first[-10:]) < 1.5 < 3 < np.mean(last[-10:])
    # Neither decay nor momentum nor clipping: the bias moves by whole steps, or stays as it was.
    np.testing.assert_allclose(bias_of(balanced[0][0].params), [[0.3 - 0.01, 0.01, 0.01, 0.01]], rtol=1e-5)
    moved = bias_of(balanced[-1][0].params) - [[0.3, 0, 0, 0]]
    np.testing.assert_allclose(moved, np.round(moved / 0.01) * 0.01, atol=1e-5)
    np.testing.assert_array_equal(bias_of(control[-1][0].params), np.float32([[0.3, 0, 0, 0]]))
    before, after = np.float32([[0.3, 0, 0, 0]]), bias_of(balanced[0][0].params)
    np.testing.assert_allclose(bias_of(balanced[0][0].ema), (before + after) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    "how", [{"accumulation": 4}, {"mesh": MeshConfig(data=4, fsdp=2)}], ids=["accumulation", "mesh"]
)
def test_the_balance_is_of_the_whole_batch(how):
    whole, parts = states_after(CONFIG, 6), states_after(CONFIG, 6, **how)
    for (state, metrics), (other, other_metrics) in zip(whole, parts, strict=True):
        np.testing.assert_allclose(bias_of(state.params), bias_of(other.params), atol=1e-7)
        for name in ("loss", "nll", "max_load", "dropped", "router_loss"):
            assert float(metrics[name]) == pytest.approx(float(other_metrics[name]), rel=1e-4), name


def test_the_bias_has_no_gradient_and_no_decay():
    spec, batch = decoder_spec(CONFIG), tiny.batch(0)
    params = initialize(spec, jax.random.key(0))
    grads, metrics = jax.jit(jax.grad(next_token(CONFIG), has_aux=True))(params, batch)
    assert not bias_of(grads).any()
    assert not decay_mask(spec).segments[1][0].channel.selection_bias
    assert decay_mask(spec).segments[1][0].channel.experts.up
    assert metrics["load"][0].sum() == pytest.approx(1.0), "one assignment a token, all tokens are targets"


def test_router_losses_are_summed_over_layers_and_part_of_the_loss():
    moe = replace(MOE, load_loss=0.5, z_loss=0.1, balance_rate=-1.0)
    config = replace(CONFIG, num_layers=3, pattern=(Block(channel=moe),), multi_token=MultiTokenConfig())
    params, batch = initialize(decoder_spec(config), jax.random.key(0)), tiny.batch(0)
    loss, metrics = jax.jit(next_token(config, multi_token_weight=0.0))(params, batch)
    assert float(loss) == pytest.approx(float(metrics["nll"]) + float(metrics["router_loss"]), rel=1e-6)
    # Fresh routers are all but even: two layers and a module, at 0.5 + 0.1 log(4)^2 each.
    assert float(metrics["router_loss"]) == pytest.approx(3 * (0.5 + 0.1 * np.log(4) ** 2), rel=0.05)
    settled, reported = settle_routing(config)(params, params, metrics)
    assert settled is params and "load" not in reported
    highest = max(float(load.max() / load.mean()) for load in metrics["load"])
    assert float(reported["max_load"]) == pytest.approx(highest)


def test_modules_are_balanced_like_layers():
    config = replace(CONFIG, multi_token=MultiTokenConfig(depth=2))
    params = initialize(decoder_spec(config), jax.random.key(0))
    loads = [jnp.array([[0.7, 0.1, 0.1, 0.1]]), jnp.array([[0.1, 0.1, 0.7, 0.1]]), jnp.full((1, 4), 0.25)]
    settled, metrics = settle_routing(config)(params, params, {"load": loads, "nll": 1.0})
    np.testing.assert_allclose(bias_of(settled), [[-0.01, 0.01, 0.01, 0.01]])
    moved = [module.blocks[0].channel.selection_bias for module in settled.multi_token]
    np.testing.assert_allclose(moved, [[[0.01, 0.01, -0.01, 0.01]], [[0, 0, 0, 0]]])
    assert metrics.keys() == {"nll", "max_load"} and float(metrics["max_load"]) == pytest.approx(2.8)


def test_a_model_without_experts_has_nothing_to_settle():
    assert settle_routing(tiny.MODEL) is None
    params = initialize(decoder_spec(tiny.MODEL), jax.random.key(0))
    assert next_token(tiny.MODEL)(params, tiny.batch(0))[1].keys() == {"nll", "accuracy", "weight"}


@pytest.mark.long
def test_a_run_logs_loads_and_further_losses(tmp_path):
    config = tiny.experiment(steps=3, model=replace(CONFIG, multi_token=MultiTokenConfig()))
    tiny.train(tmp_path, config)
    logged = [row for row in tiny.rows(tmp_path) if "nll" in row]
    assert len(logged) == 3
    for row in logged:
        assert {"router_loss", "max_load", "dropped", "multi_token_nll_1", "multi_token_accuracy_1"} <= row.keys()
        assert 1 <= row["max_load"] <= 4 and row["dropped"] == 0 and "load" not in row


def test_an_average_of_parameters_without_the_bias_is_refused(tmp_path):
    optimizer = OptimizerConfig(kind="schedule_free", warmup_steps=2)
    with pytest.raises(ValueError, match="in which the selection biases of moe.balance_rate have no part"):
        tiny.train(tmp_path, tiny.experiment(model=CONFIG, optimizer=optimizer))
