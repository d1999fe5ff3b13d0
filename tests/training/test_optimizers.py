"""Schedules against their closed forms, update rules against their definitions."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.flatten_util import ravel_pytree
from optax.contrib import schedule_free_eval_params

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.config import Block, LatentAttentionConfig, MambaConfig, MoEConfig, NormConfig
from jaxllm.models.declare import initialize
from jaxllm.training.checkpoints import flatten
from jaxllm.training.optimizers import OptimizerConfig, evaluation_params, make_optimizer, make_schedule
from jaxllm.training.state import initial_state
from jaxllm.training.step import make_step

KINDS = ["adamw", "muon", "lion", "adafactor", "schedule_free"]

# Everything that is no matrix of the residual stream is there: biases of each kind, norms with scale and bias.
WITH_BIASES = ModelConfig(
    vocab_size=8,
    context_length=4,
    d_model=4,
    num_layers=2,
    attention=AttentionConfig(num_heads=2, qkv_bias=True, out_bias=True, qk_norm="shared"),
    mlp=MLPConfig(d_ff=6, bias=True),
    norm=NormConfig(kind="layernorm", bias=True),
    positions="learned",
)


def rates(steps: int, **fields) -> np.ndarray:
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, **fields), steps)
    return np.array([float(schedule(n)) for n in range(steps + 1)])


def test_warmup_is_a_line_that_starts_above_zero_and_ends_at_the_peak():
    for kind in ("cosine", "wsd", "linear", "constant"):
        np.testing.assert_allclose(rates(20, schedule=kind, warmup_steps=5)[:5], [0.4, 0.8, 1.2, 1.6, 2.0], rtol=1e-6)


def test_cosine():
    rate = rates(24, schedule="cosine", warmup_steps=4, final_ratio=0.1)
    expected = [0.2 + 1.8 * (1 + math.cos(math.pi * n / 20)) / 2 for n in range(21)]
    np.testing.assert_allclose(rate[4:], expected, rtol=1e-5)
    assert rate[14] == pytest.approx(1.1)  # halfway between 2 and 0.2
    assert rate[24] == pytest.approx(0.2)


def test_linear():
    rate = rates(24, schedule="linear", warmup_steps=4, final_ratio=0.0)
    np.testing.assert_allclose(rate[4:], 2.0 * (1 - np.arange(21) / 20), rtol=1e-5, atol=1e-6)
    assert rate[23] > 0, "the last update counts too"


def test_wsd_warms_up_stays_and_decays():
    rate = rates(40, schedule="wsd", warmup_steps=4, decay_fraction=0.25, final_ratio=0.1)
    np.testing.assert_allclose(rate[3:31], 2.0)
    np.testing.assert_allclose(rate[30:], 2.0 - 1.8 * np.arange(11) / 10, rtol=1e-5)


def test_wsd_decay_never_eats_the_warmup():
    rate = rates(10, schedule="wsd", warmup_steps=8, decay_fraction=1.0, final_ratio=0.5)
    np.testing.assert_allclose(rate[7:], [2.0, 2.0, 1.5, 1.0], rtol=1e-6)


def test_constant():
    np.testing.assert_array_equal(rates(9, schedule="constant", warmup_steps=0), 2.0)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_no_update_is_wasted_at_rate_zero(kind, warmup):
    assert (rates(8, schedule=kind, warmup_steps=warmup, final_ratio=0.0)[:8] > 0).all()


@pytest.mark.parametrize("warmup", [10, 11])
def test_warmup_that_leaves_no_step_is_refused(warmup):
    with pytest.raises(ValueError, match=f"warmup_steps={warmup} leaves none of the 10 steps"):
        make_schedule(OptimizerConfig(warmup_steps=warmup), 10)


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"final_ratio": 1.5}, r"final_ratio must be in \[0, 1\]"),
        ({"b2": 1.0}, r"b2 must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "must not be negative"),
    ],
)
def test_impossible_settings(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        OptimizerConfig(**fields)


# Update rules


def random_like(tree, seed: int):
    flat, unravel = ravel_pytree(tree)
    return unravel(jnp.asarray(np.random.default_rng(seed).normal(size=flat.shape), flat.dtype))


def updates(config: OptimizerConfig, spec, params, grads: list, steps: int = 100) -> list:
    optimizer = make_optimizer(config, spec, steps)
    state, results = optimizer.init(params), []
    for grad in grads:
        update, state = optimizer.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, update)
        results.append(params)
    return results


def is_vector(name: str) -> bool:
    return "bias" in name or "norm" in name


def test_adamw_is_the_textbook_rule_and_decays_matrices_only():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2, schedule="linear", weight_decay=0.5, b1=0.8, b2=0.9)
    spec = decoder_spec(WITH_BIASES)
    start = random_like(initialize(spec, jax.random.key(0)), 0)
    grads = [random_like(start, seed) for seed in (1, 2, 3, 4)]
    results = [flatten(result) for result in updates(config, spec, start, grads)]
    rate = make_schedule(config, 100)

    seen = {True: 0, False: 0}
    for name, p in flatten(start).items():
        p, m, v = np.asarray(p, np.float64), 0.0, 0.0
        for t, grad in enumerate(grads, 1):
            g = np.asarray(flatten(grad)[name], np.float64)
            m = 0.8 * m + 0.2 * g
            v = 0.9 * v + 0.1 * g**2
            direction = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
            decay = 0.0 if is_vector(name) else 0.5 * p
            p = p - float(rate(t - 1)) * (direction + decay)
            np.testing.assert_allclose(results[t - 1][name], p, rtol=2e-4, atol=2e-6, err_msg=name)
        seen[is_vector(name)] += 1
    assert seen == {True: 14, False: 8}


@pytest.mark.parametrize("kind", ["lion", "adafactor"])
def test_other_rules_decay_the_same_matrices(kind):
    spec = decoder_spec(WITH_BIASES)
    start = random_like(initialize(spec, jax.random.key(0)), 0)
    with_decay, without = (
        flatten(updates(OptimizerConfig(kind=kind, warmup_steps=0, weight_decay=w), spec, start, [start])[0])
        for w in (0.5, 0.0)
    )
    for name in with_decay:
        assert np.array_equal(with_decay[name], without[name]) == is_vector(name), name


def test_muon_makes_updates_of_hidden_matrices_orthogonal():
    """Layer by layer, with heads and head width as one side. Newton-Schulz leaves singular values near 1, not at it."""
    config = OptimizerConfig(kind="muon", learning_rate=1.0, warmup_steps=0, schedule="constant", weight_decay=0.0)
    attention = AttentionConfig(num_heads=2, num_kv_heads=1, head_dim=4)
    spec = decoder_spec(replace(WITH_BIASES, d_model=16, attention=attention, mlp=MLPConfig(d_ff=40)))
    start = initialize(spec, jax.random.key(0))
    grads = random_like(start, 1)
    update = flatten(jax.tree.map(jnp.subtract, updates(config, spec, start, [grads])[0], start))
    shapes = {  # the two sides of each matrix of a layer; the larger one sets the scale
        "mixer.query": (16, 2 * 4),
        "mixer.key": (16, 4),
        "mixer.value": (16, 4),
        "mixer.out": (2 * 4, 16),
        "channel.up": (16, 40),
        "channel.down": (40, 16),
    }
    for name, shape in shapes.items():
        for layer in range(2):
            matrix, gradient = (
                np.asarray(tree[f"segments.0.0.{name}"])[layer].reshape(shape) for tree in (update, flatten(grads))
            )
            size = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(max(shape)))
            assert ((size > 0.6) & (size < 1.25)).all(), (name, size)
            assert np.linalg.cond(gradient) > np.linalg.cond(matrix), "there was nothing to make orthogonal"


@pytest.mark.long
def test_muon_takes_experts_and_inner_matrices_one_by_one():
    config = OptimizerConfig(kind="muon", learning_rate=1.0, warmup_steps=0, schedule="constant", weight_decay=0.0)
    latent = LatentAttentionConfig(num_heads=2, kv_rank=12, nope_dim=4, rope_dim=2, value_dim=4)
    experts = MoEConfig(num_experts=3, top_k=2, d_ff=24)
    pattern = (Block(latent, experts), Block(MambaConfig(d_state=4), "none"))
    spec = decoder_spec(ModelConfig(vocab_size=32, d_model=16, num_layers=2, pattern=pattern))
    start = initialize(spec, jax.random.key(0))
    after = updates(config, spec, start, [random_like(start, 1)])[0]
    update = flatten(jax.tree.map(jnp.subtract, after, start))
    shapes = {
        "0.0.channel.experts.up": (3, 16, 24),
        "0.0.channel.experts.down": (3, 24, 16),
        "0.0.channel.router": (1, 16, 3),
        "0.0.mixer.key": (1, 12, 2 * 4),
        "0.1.mixer.step": (1, 1, 32),
    }
    for name, shape in shapes.items():
        for matrix in np.asarray(update[f"segments.{name}"]).reshape(shape):
            size = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(max(shape[1:])))
            assert ((size > 0.6) & (size < 1.25)).all(), (name, size)


def test_muon_leaves_tables_and_vectors_to_adamw():
    config = OptimizerConfig(
        kind="muon",
        learning_rate=0.01,
        schedule="constant",
        warmup_steps=0,
        weight_decay=0.0,
        b1=0.8,
        b2=0.9,
        epsilon=0.1,
    )
    spec = decoder_spec(WITH_BIASES)
    start = random_like(initialize(spec, jax.random.key(0)), 0)
    grads = [random_like(start, 1), random_like(start, 2)]
    by_muon = flatten(updates(config, spec, start, grads)[-1])
    # Optax's Muon uses Nesterov momentum for both groups.
    adamw = optax.adamw(0.01, 0.8, 0.9, 0.1, weight_decay=0.0, nesterov=True)
    state, params = adamw.init(start), start
    for grad in grads:
        update, state = adamw.update(grad, state, params)
        params = optax.apply_updates(params, update)
    by_adamw = flatten(params)
    same = {name for name in by_muon if np.allclose(by_muon[name], by_adamw[name], rtol=1e-5)}
    assert same == {name for name in by_muon if is_vector(name) or name in ("embedding", "position")}


def loss_after(kind: str, steps: int):
    """First loss, last loss, and the state after `steps` steps of the tiny job with an update rule."""
    rate = {"lion": 3e-3, "schedule_free": 2e-2}.get(kind, 1e-2)
    config = tiny.experiment(steps=100, optimizer=OptimizerConfig(kind=kind, learning_rate=rate, warmup_steps=2))
    job = tiny.job(config)
    optimizer = make_optimizer(config.optimizer, job.spec, 100)
    step = jax.jit(make_step(job.objective, optimizer, make_schedule(config.optimizer, 100), config.training))
    state = initial_state(job.spec, optimizer, 0, False)
    losses = []
    for seed in range(steps):
        state, metrics = step(state, tiny.batch(seed))
        losses.append(float(metrics["loss"]))
    return losses, state, config


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_lowers_the_loss(kind):
    losses, state, config = loss_after(kind, 20)
    assert losses[0] == pytest.approx(math.log(64), abs=0.1)
    assert np.mean(losses[-3:]) < losses[0] - 0.3
    shipped = evaluation_params(config.optimizer, state.params, state.opt_state)
    if kind != "schedule_free":
        assert shipped is state.params
        return
    expected = schedule_free_eval_params(state.opt_state, state.params)
    distance = [
        float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (shipped, state.params)), strict=True)
    ]
    assert max(distance) > 1e-3, "schedule-free's average is not the point it differentiates at"
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), shipped, expected))
    # y = (1 - b1) z + b1 x: what is trained at lies between the base optimizer's point and the average that is shipped.
    between = jax.tree.map(lambda x, z: 0.1 * z + 0.9 * x, shipped, state.opt_state.z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), between, state.params)
