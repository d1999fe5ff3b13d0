"""Replicas that train apart: against data-parallel SGD, a loop over replicas, and in the compiled program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxllm.parallel.collectives import find_collectives
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import OuterConfig
from jaxllm.training.local_sgd import abstract_local_state, make_local_state, make_local_step
from jaxllm.training.loop import Trainer
from jaxllm.training.state import initial_state
from jaxllm.training.step import jit_step, make_step

MODEL = replace(tiny.MODEL, num_layers=1)
LAYOUT = Layout(make_mesh(MeshConfig(data=4, fsdp=2)))
TRAINING = tiny.experiment(grad_clip=0.0).training
JOB = tiny.job(tiny.experiment(model=MODEL))
SGD, ADAM = optax.sgd(0.1), optax.adamw(1e-2)


def inner(optimizer):
    return make_step(JOB.objective, optimizer, lambda step: 0.1, TRAINING)


def run_apart(optimizer, outer, steps):
    """(state, losses) after some steps on the mesh, and the compiled step."""
    _, shardings = abstract_local_state(JOB.spec, optimizer, outer, LAYOUT)
    state = make_local_state(JOB.spec, optimizer, outer, LAYOUT, shardings, seed=0)
    step = jit_step(make_local_step(inner(optimizer), outer, LAYOUT), LAYOUT, shardings)
    step = step.lower(state, tiny.batch(0)).compile()
    losses = []
    for number in range(steps):
        batch = jax.tree.map(lambda x: jax.device_put(x, LAYOUT.sharding("batch", "length")), tiny.batch(number))
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses, step


def by_hand(optimizer, outer, steps, replicas=4):
    """The same in a loop over replicas, on one device."""
    step = jax.jit(inner(optimizer))
    start = initial_state(JOB.spec, optimizer, 0, False)
    apart = [start] * replicas
    met, momentum = start.params, jax.tree.map(jnp.zeros_like, start.params)
    for number in range(steps):
        batch = tiny.batch(number)
        parts = [{name: x[2 * r : 2 * r + 2] for name, x in batch.items()} for r in range(replicas)]
        apart = [step(state, part)[0] for state, part in zip(apart, parts, strict=True)]
        if (number + 1) % outer.every == 0:
            mean = jax.tree.map(lambda *each: sum(each) / replicas, *(state.params for state in apart))
            gradient = jax.tree.map(jnp.subtract, met, mean)
            momentum = jax.tree.map(lambda m, g: outer.momentum * m + g, momentum, gradient)
            met = jax.tree.map(
                lambda p, m, g: p - outer.learning_rate * (g + outer.momentum * m if outer.momentum else g),
                met,
                momentum,
                gradient,
            )
            apart = [state.replace(params=met) for state in apart]
    return met, [state.params for state in apart]


def assert_close(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


def test_met_after_each_step_of_sgd_it_is_data_parallel_sgd():
    apart, losses, _ = run_apart(SGD, OuterConfig(every=1, learning_rate=1.0, momentum=0.0), 3)
    state, step, expected = initial_state(JOB.spec, SGD, 0, False), jax.jit(inner(SGD)), []
    for number in range(3):
        state, metrics = step(state, tiny.batch(number))
        expected.append(float(metrics["loss"]))
    assert_close(apart.params, state.params)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def diloco():
    outer = OuterConfig(every=2, learning_rate=0.7, momentum=0.9)
    return outer, *run_apart(ADAM, outer, 5)


def test_it_is_what_replicas_in_a_loop_do(diloco):
    outer, state, _, _ = diloco
    met, apart = by_hand(ADAM, outer, 5)
    assert_close(state.params, met, rtol=2e-4, atol=2e-5)
    for r in range(4):
        mine = jax.tree.map(lambda x, r=r: x[r], state.opt_state.params)
        assert_close(mine, apart[r], rtol=2e-4, atol=2e-5)
    first = jax.tree.leaves(state.opt_state.params)[0]
    assert not np.array_equal(first[0], first[1]), "step 5 was made apart"


def test_replicas_talk_of_nothing_but_numbers_for_the_log_until_they_meet(diloco):
    """Outside the branch of the meeting, what crosses the data axis is at most a number an array."""
    _, _, _, step = diloco
    text = step.as_text()
    across = [c for c in find_collectives(text) if "data" in (c.over(LAYOUT.mesh) or ("data",))]
    meeting = [c for c in across if "/cond/" in c.op_name or "branch" in c.op_name]
    apart = [c for c in across if c not in meeting]
    assert meeting, "they never meet"
    assert max(c.bytes for c in apart) <= 4 * 8
    assert sum(c.bytes for c in meeting) > 1000


@pytest.mark.long
def test_a_run_of_replicas_apart_is_stopped_and_resumed_as_any_other(tmp_path):
    config = replace(
        tiny.experiment(steps=6, every=3, model=MODEL, mesh=MeshConfig(data=4, fsdp=2)), outer=OuterConfig(every=2)
    )
    tiny.train(tmp_path / "whole", config)
    tiny.train(tmp_path / "parts", config, tiny.Batches(stopped_at=2))
    outcome, _ = tiny.train(tmp_path / "parts", config)
    assert outcome.finished
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "parts", config)
    state = tiny.newest_state(tmp_path / "whole", config)
    apart = [array for name, array in state.items() if name.startswith("opt_state.params.")]
    assert apart and all(array.shape[0] == 4 for array in apart)


def test_what_does_not_go_together_is_refused(tmp_path):
    config = replace(tiny.experiment(ema_decay=0.9), outer=OuterConfig(every=2))
    with pytest.raises(ValueError, match="outer.every .* does not go together with training.ema_decay"):
        Trainer(tiny.job(config), tmp_path, tiny.Recorder())
    with pytest.raises(ValueError, match="momentum in"):
        OuterConfig(momentum=1.0)
