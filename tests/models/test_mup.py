"""µP and CompleteP: what changes with size, what does not, and whether activations then move alike."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec, forward
from jaxllm.models.config import MuPConfig
from jaxllm.models.declare import initialize
from jaxllm.models.mup import (
    branch_multiplier,
    depth_multipliers,
    gradient_multipliers,
    logit_multiplier,
    width_multipliers,
)
from jaxllm.plan.coordinate_check import at_width, coordinate_check, draw_coordinates
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer

BASE = ModelConfig(
    vocab_size=64,
    context_length=16,
    d_model=32,
    num_layers=2,
    attention=AttentionConfig(num_heads=4),
    mlp=MLPConfig(d_ff=64, bias=True),
    tie_embeddings=False,
)
MUP = replace(BASE, mup=MuPConfig(base_width=32, base_depth=2))
LARGE = replace(at_width(MUP, 128), num_layers=8)
CONSTANT = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0, weight_decay=0.0)


@functools.cache
def start(model):
    return jax.jit(lambda: initialize(decoder_spec(model), jax.random.key(0)))()


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def kind(name):
    if name in ("embedding", "head"):
        return "table"
    inside = "layer " if name.startswith("segments") else ""
    return inside + ("vector" if name.endswith(("scale", "bias")) else "matrix")


def test_multipliers_of_a_model_four_times_as_wide_and_as_deep():
    """Yang et al. 2022, table 8 (Adam); Dey et al. 2025, table 1, with alpha = 1/2 so that every factor shows."""
    model = replace(LARGE, mup=replace(LARGE.mup, depth_alpha=0.5))
    spec = decoder_spec(model)
    expected = {
        # learning rate for the width, for the depth, and of the gradient (one over epsilon's factor)
        "table": (1.0, 1.0, 4.0),
        "vector": (1.0, 1.0, 4.0),
        "layer vector": (1.0, 0.5, 8.0),
        "layer matrix": (0.25, 0.5, 8.0),
    }
    multipliers = [named(tree(model, spec)) for tree in (width_multipliers, depth_multipliers, gradient_multipliers)]
    seen = set()
    for name in named(spec):
        assert tuple(tree[name] for tree in multipliers) == expected[kind(name)], name
        seen.add(kind(name))
    assert seen == set(expected)
    assert (logit_multiplier(model), branch_multiplier(model)) == (0.25, 0.5)
    assert branch_multiplier(LARGE) == 0.25


@pytest.mark.parametrize("init_std", [0.02, 0.0])
def test_initial_deviations(init_std):
    base, large = (named(start(replace(m, init_std=init_std))) for m in (MUP, LARGE))
    for name, array in large.items():
        ratio = float(array.std()) / float(base[name].std()) if base[name].std() else None
        if kind(name) == "table":
            assert ratio == pytest.approx(1, rel=0.06), name
        elif kind(name) == "layer matrix":
            assert ratio == pytest.approx(0.5, rel=0.06), name


@pytest.mark.long
def test_at_the_base_size_nothing_changes():
    spec, params = decoder_spec(MUP), start(MUP)
    jax.tree.map(np.testing.assert_array_equal, params, start(BASE))
    tokens = jnp.arange(8)[None]
    np.testing.assert_array_equal(forward(params, MUP, tokens), forward(params, BASE, tokens))
    for rule in ("adamw", "muon", "schedule_free", "lion", "adafactor"):
        config = replace(CONSTANT, kind=rule, weight_decay=0.1)
        grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params)
        steps = []
        for optimizer in (make_optimizer(config, spec, 10), make_optimizer(config, spec, 10, MUP)):
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            steps.append(named(updates))
        for name, update in steps[0].items():
            np.testing.assert_allclose(steps[1][name], update, rtol=1e-5, atol=1e-8, err_msg=f"{rule} {name}")


@pytest.mark.parametrize(("rule", "power"), [("adamw", 1.0), ("lion", 1.0), ("muon", 0.5)])
def test_learning_rates_of_a_wide_model(rule, power):
    """Next to a model of the same size without µP; weight decay stays as it is."""
    plain = replace(LARGE, mup=None)
    spec, params = decoder_spec(plain), start(plain)
    grads = jax.tree.map(lambda p: jnp.sign(p) + 0.5, params)

    def step(model, decay):
        optimizer = make_optimizer(replace(CONSTANT, kind=rule, weight_decay=decay), spec, 10, model)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    without, scaled = named(step(plain, 0.0)), named(step(LARGE, 0.0))
    for name in without:
        factor = 4**-power if kind(name) == "layer matrix" else 1.0
        np.testing.assert_allclose(scaled[name], factor * without[name], rtol=1e-4, atol=1e-9, err_msg=name)
    decays = [named(jax.tree.map(jnp.subtract, step(model, 0.1), step(model, 0.0))) for model in (plain, LARGE)]
    for name in without:
        np.testing.assert_allclose(decays[1][name], decays[0][name], atol=2e-8, err_msg=name)


def test_epsilon_shrinks_as_gradients_do():
    """Gradients a quarter as large, in layers of a model four times as deep a sixteenth, give the same updates."""
    config = replace(CONSTANT, epsilon=1e-2)
    spec, params = decoder_spec(LARGE), start(LARGE)
    grads = jax.tree.map(lambda p: 0.02 * jnp.sign(p + 1e-3), params)
    small = jax.tree.map(lambda g, m: g / m, grads, gradient_multipliers(LARGE, spec))
    plain, scaled = make_optimizer(config, spec, 10), make_optimizer(config, spec, 10, LARGE)
    expected = named(plain.update(grads, plain.init(params), params)[0])
    actual = named(scaled.update(small, scaled.init(params), params)[0])
    for name, update in expected.items():
        factor = 0.25 if kind(name) == "layer matrix" else 1.0
        np.testing.assert_allclose(actual[name], factor * update, rtol=1e-5, err_msg=name)


@pytest.mark.long
def test_a_coordinate_check_tells_the_parametrizations_apart(tmp_path):
    """With µP the stream moves as much in a model four times as wide; without, many times as much."""
    widths, steps = (32, 128), 4
    checks = {
        name: coordinate_check(model, CONSTANT, widths, steps=steps, rows=2)
        for name, model in (("standard", BASE), ("µP", replace(MUP, mup=MuPConfig(base_width=32))))
    }
    growth = {}
    for name, rows in checks.items():
        assert [(row.width, row.step) for row in rows] == [(w, s) for w in widths for s in range(steps + 1)]
        narrow, wide = (row for row in rows if row.step == steps)
        assert all(change == 0 for change in rows[0].change.values())
        growth[name] = {layer: wide.change[layer] / narrow.change[layer] for layer in narrow.change}
    for layer in ("layer 0", "layer 1"):
        assert growth["standard"][layer] > 2.5, growth
        assert 0.5 < growth["µP"][layer] < 1.6, growth
    assert growth["standard"]["logits"] > 1.5 * growth["µP"]["logits"]
    assert draw_coordinates(checks, tmp_path / "check.svg").stat().st_size > 1000


def test_widening():
    wide = at_width(replace(BASE, attention=AttentionConfig(num_heads=4, num_kv_heads=2)), 64)
    assert (wide.attention.num_heads, wide.attention.kv_heads, wide.head_dim, wide.mlp.d_ff) == (8, 4, 8, 128)
    with pytest.raises(ValueError, match="a width of 36 is no whole number of heads of 8 units"):
        at_width(BASE, 36)


@pytest.mark.parametrize("wrong", [{"base_width": 0}, {"base_depth": -1}, {"depth_alpha": 0.0}, {"depth_alpha": 1.5}])
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match=f"mup.{next(iter(wrong))}"):
        MuPConfig(**wrong)


def test_the_loss_of_a_large_model_falls():
    """End to end: the multipliers are in the gradients too."""
    spec = decoder_spec(LARGE)
    optimizer = make_optimizer(CONSTANT, spec, 20, LARGE)
    tokens = jax.random.randint(jax.random.key(3), (2, 17), 0, 64)

    def loss(params):
        logits = forward(params, LARGE, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    params = start(LARGE)
    state, values = optimizer.init(params), []
    for _ in range(12):
        value, params, state = step(params, state)
        values.append(float(value))
    assert values[0] == pytest.approx(math.log(64), abs=0.1)
    assert values[-1] < values[0] - 0.3
