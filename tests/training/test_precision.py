"""Types of parameters, states and products in training; loss scaling; optimizer state in host memory."""

import json
import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxllm.config import apply_overrides, from_json, to_json
from jaxllm.models import decoder_spec
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.quantize.config import ProductConfig
from jaxllm.training import state as states
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.loss_scale import LossScale, LossScaleConfig, follow
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer
from jaxllm.training.precision import PrecisionConfig, make_precision
from jaxllm.training.shipped import restore_params
from jaxllm.training.state import abstract_state, initial_state, make_state
from jaxllm.training.step import jit_step, make_step
from jaxllm.training.stochastic_rounding import stochastic_round

SPEC = decoder_spec(tiny.MODEL)
PLAIN = PrecisionConfig()
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=2), SPEC, 30)


@cache
def compiled(dtype, config, accumulation, ema_decay):
    precision = make_precision(config, SPEC, dtype)
    settings = TrainingConfig(batch_size=8, accumulation=accumulation, ema_decay=ema_decay)
    objective = next_token(replace(tiny.MODEL, compute_dtype=dtype))
    step = jax.jit(make_step(objective, OPTIMIZER, lambda n: 0.0, settings, precision=precision))
    return step, initial_state(SPEC, OPTIMIZER, 0, ema_decay > 0, precision)


def trained(dtype="float32", config=PLAIN, *, accumulation=1, ema_decay=0.0, scale=None, poison=None):
    """The losses of 12 steps of a tiny run, their metrics and the last state."""
    step, state = compiled(dtype, config, accumulation, ema_decay)
    if scale is not None:
        state = state.replace(loss_scale=state.loss_scale.replace(scale=jnp.float32(scale)))
    seen = []
    for n in range(12):
        batch = tiny.batch(n)
        if poison == n:
            batch["weights"][:] = np.nan
        state, metrics = step(state, batch)
        seen.append({name: np.asarray(value) for name, value in metrics.items()})
    return [float(metrics["loss"]) for metrics in seen], seen, state


@pytest.fixture(scope="module")
def reference():
    return trained()


def test_parameters_are_master_weights_in_float32(reference):
    _, _, state = reference
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds == {"float32", "int32"}
    assert (state.loss_scale, state.histories) == (None, None)


# float16

HALF = PrecisionConfig(loss_scale=LossScaleConfig(initial=2.0**10, growth_interval=4))


def test_float16_follows_float32(reference):
    losses, seen, state = trained("float16", HALF)
    np.testing.assert_allclose(losses, reference[0], rtol=5e-3)
    assert losses[-1] < losses[0] - 0.3
    assert int(state.skipped) == 0 and float(state.loss_scale.scale) == 2.0**13
    norms = [[float(metrics["grad_norm"]) for metrics in run] for run in (seen, reference[1])]
    np.testing.assert_allclose(*norms, rtol=0.03)


def test_overflow_skips_steps_until_the_scale_fits(reference):
    losses, seen, state = trained("float16", HALF, scale=2.0**28)
    overflows = [bool(metrics["overflow"]) for metrics in seen]
    first = overflows.index(False)
    assert first >= 2 and all(overflows[:first]), "gradients times 2^28 do not fit"
    scales = [float(metrics["loss_scale"]) for metrics in seen]
    assert scales[: first + 1] == [2.0 ** (28 - n) for n in range(first + 1)]
    assert int(state.skipped) == sum(overflows) == int(seen[-1]["skipped"])
    assert np.isfinite(losses).all() and losses[0] == pytest.approx(reference[0][0], rel=1e-3)
    assert losses[-1] < losses[0]


def test_a_bad_batch_is_no_overflow():
    _, seen, state = trained("float16", HALF, poison=3)
    assert not seen[3]["finite"] and not seen[3]["overflow"]
    assert int(state.skipped) == 1 and seen[11]["finite"]


def test_the_scale_by_hand():
    config = LossScaleConfig(initial=8.0, growth_interval=2, smallest=2.0)
    state, scales = LossScale(jnp.float32(8), jnp.int32(0)), []
    for finite in (True, True, True, False, True, False, False, False, False, True, True):
        state = follow(state, jnp.asarray(finite), config)
        scales.append(float(state.scale))
    assert scales == [8, 16, 16, 8, 8, 4, 2, 2, 2, 2, 4]


@pytest.mark.parametrize("fields", [{"backoff": 1.0}, {"growth": 0.5}, {"smallest": 0.0}, {"growth_interval": 0}])
def test_bad_scales_are_refused(fields):
    with pytest.raises(ValueError, match="precision.loss_scale"):
        LossScaleConfig(**fields)


# Stochastic rounding


def test_rounding_by_chance_is_right_on_average():
    """A number between two neighbours goes up with a chance that is its distance from the lower one."""
    values = jnp.asarray([1.0 + 2**-9, 1.0 + 2**-12, -3.14159, 1e-20, 0.0, 1.5, jnp.inf, -jnp.inf])
    draws = 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    rounded = np.asarray(jax.vmap(lambda key: stochastic_round(values, key))(keys), np.float64)
    for column, value in zip(rounded.T, np.asarray(values, np.float64), strict=True):
        neighbours = np.unique(column)
        assert len(neighbours) <= 2
        if len(neighbours) == 1:
            assert neighbours[0] == value
            continue
        below, above = neighbours
        assert below < value < above and above - below <= 2**-7 * abs(value) * 1.01
        deviation = (above - below) / 2 / math.sqrt(draws)
        assert abs(column.mean() - value) < 5 * deviation
    assert np.isnan(float(stochastic_round(jnp.float32(jnp.nan), jax.random.key(0))))


def test_small_updates_count_on_average():
    """1 + n 2^-12 in bfloat16, whose numbers near 1 are 2^-7 apart: to nearest it would stay at 1 for ever."""
    keys = jax.random.split(jax.random.key(1), 256)
    x = jnp.ones(2000, jnp.bfloat16)
    x, _ = jax.lax.scan(lambda x, key: (stochastic_round(x.astype(jnp.float32) + 2**-12, key), None), x, keys)
    assert float(x.astype(jnp.float32).mean()) == pytest.approx(1 + 256 * 2**-12, abs=2e-3)


@pytest.mark.long
def test_states_in_bfloat16_learn_as_float32_does(reference):
    config = PrecisionConfig(parameters="bfloat16", optimizer_state="bfloat16")
    losses, _, state = trained("bfloat16", config, ema_decay=0.9, accumulation=2)
    np.testing.assert_allclose(losses, reference[0], rtol=0.03)
    assert losses[-1] < losses[0] - 0.3
    block, adam = state.params.segments[0][0], state.opt_state[0]
    assert block.mixer.query.dtype == adam.mu.segments[0][0].mixer.query.dtype == jnp.bfloat16
    assert block.mixer_norm.scale.dtype == jnp.float32, "vectors stay as they are"
    assert {leaf.dtype for leaf in jax.tree.leaves(state.ema)} == {jnp.dtype("float32")}


# Products in eight bits


@pytest.mark.parametrize(
    "products",
    [ProductConfig(kind="fp8", scaling="delayed", history=4), ProductConfig(kind="int8", scales="block", block=16)],
    ids=["fp8", "int8"],
)
def test_training_in_eight_bits_follows_bfloat16(products, reference):
    losses, _, state = trained("bfloat16", PrecisionConfig(products=products), accumulation=1 + products.delayed)
    assert losses != reference[0]
    np.testing.assert_allclose(losses, reference[0], rtol=0.03)
    assert losses[-1] < losses[0] - 0.3
    assert jax.tree.structure(state.params) == jax.tree.structure(reference[2].params), "the model is as ever"
    if products.delayed:
        assert all((history > 0).all() for history in jax.tree.leaves(state.histories)), "four steps of 12 are kept"


# Host memory


@pytest.mark.long
def test_optimizer_state_in_host_memory_changes_nothing():
    layout = Layout(make_mesh(MeshConfig(data=1, fsdp=2), jax.devices()[:2]))
    step = make_step(next_token(tiny.MODEL), OPTIMIZER, lambda n: 0.0, TrainingConfig(batch_size=8))
    results = []
    for offload in (False, True):
        _, shardings = abstract_state(SPEC, OPTIMIZER, layout, offload_optimizer=offload)
        state = make_state(SPEC, OPTIMIZER, shardings, seed=0, ema=False)
        compiled = jit_step(step, layout, shardings)
        for n in range(2):
            batch = {name: jax.device_put(v, layout.sharding("batch", "length")) for name, v in tiny.batch(n).items()}
            state, _ = compiled(state, batch)
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
        assert kinds == {"pinned_host" if offload else "device"}
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} == {"device"}
        results.append(jax.device_get((state.params, state.opt_state)))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_devices_without_host_memory_are_refused(monkeypatch):
    monkeypatch.setattr(states, "HOST_MEMORY", "warm_storage")
    with pytest.raises(ValueError, match=r"needs warm_storage memory, but cpu has device, .*set it to false"):
        abstract_state(SPEC, optax.sgd(0.1), Layout(make_mesh(MeshConfig())), offload_optimizer=True)


# Whole runs


@pytest.mark.long
def test_a_run_with_everything_resumes_and_ships(tmp_path):
    """float16, delayed scaling, states in bfloat16 and in host memory: stopped and resumed it is the same run."""
    precision = PrecisionConfig(
        parameters="bfloat16",
        optimizer_state="bfloat16",
        products=ProductConfig(kind="fp8", scaling="delayed", history=2),
        loss_scale=LossScaleConfig(initial=2.0**20, growth_interval=3),
    )
    model = replace(tiny.MODEL, compute_dtype="float16")
    config = replace(tiny.experiment(8, 4, model=model, offload_optimizer=True), precision=precision)
    _, reporter = tiny.train(tmp_path / "whole", config)
    assert reporter.heard("float16", "loss scale", "fp8")
    tiny.train(tmp_path / "parts", config, tiny.Batches(stopped_at=4))
    tiny.train(tmp_path / "parts", config)
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "parts", config)
    logged = tiny.rows(tmp_path / "whole")
    assert all("loss_scale" in row for row in logged if "loss" in row)
    (tmp_path / "whole" / "config.json").write_text(to_json(config))
    _, params, step = restore_params(tmp_path / "whole")
    assert step == 8 and {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_schedule_free_keeps_its_state_as_it_is(tmp_path):
    config = tiny.experiment(optimizer=OptimizerConfig(kind="schedule_free", warmup_steps=2), offload_optimizer=True)
    with pytest.raises(ValueError, match="optimizer.kind=schedule_free makes the parameters to evaluate"):
        tiny.train(tmp_path, config)


def test_configs_from_before_these_settings_are_read():
    """`remat` was one of three words, and there was no `precision`."""
    content = json.loads(to_json(tiny.experiment(remat="dots")))
    del content["precision"], content["training"]["offload_optimizer"]
    assert from_json(json.dumps(content), Experiment) == tiny.experiment(remat="dots")
    content["training"]["remat"] = "some"
    with pytest.raises(ValueError, match="unknown remat policy 'some'"):
        from_json(json.dumps(content), Experiment)


def test_settings_of_the_command_line():
    arguments = [
        "--training.remat=full*2 + every:4",
        "--precision.products.kind=fp8",
        "--precision.parameters=bfloat16",
    ]
    changed = apply_overrides(tiny.experiment(), arguments)
    assert changed.training.remat == "full*2 + every:4"
    assert (changed.precision.products.kind, changed.precision.parameters) == ("fp8", "bfloat16")
