"""Every schedule, executed on four ranks with a model small enough to compile eight times: gradients and order."""

from collections import defaultdict
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxllm.parallel.collectives import find_collectives
from jaxllm.parallel.pipeline import StagedModel, instructions, run_pipeline
from jaxllm.parallel.schedules import SCHEDULES, build_schedule
from jaxllm.parallel.sharding import Layout, Rules

RANKS, MICROBATCHES, LAYERS, ROWS, T, D, V = 4, 8, 8, 2, 3, 8, 5
seen: list[tuple[int, int]] = []  # microbatch and stage of backwards, as they happen


@jax.custom_vjp
def witnessed(x, microbatch, stage):
    """The identity, which writes down when its gradient is taken."""
    return x


def write_down(microbatch, stage):
    seen.append((int(microbatch), int(stage)))


def witnessed_backward(residuals, x_bar):
    jax.debug.callback(write_down, *residuals)
    return x_bar, None, None


witnessed.defvjp(lambda x, microbatch, stage: (x, (microbatch, stage)), witnessed_backward)


def first(ends, microbatch):
    x = ends["table"][microbatch["tokens"]]
    return x, 0.1 * jnp.square(x).mean(), {"mean": x.mean()}


def middle(layers, x, microbatch, stage):
    x = witnessed(x, microbatch["number"], stage)
    y, norms = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), jnp.abs(x).mean()), x, layers)
    return y, 0.01 * jnp.square(y).mean(), {"norms": norms, "stage": stage.astype(jnp.float32)}


def last(ends, x, microbatch):
    # The table is used at both ends, as tied embeddings are.
    logits = x @ ends["table"].T + ends["bias"]
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), microbatch["targets"][..., None], -1).mean()
    return nll, {"nll": nll}


def problem():
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    layers, ends = 0.3 * draw(LAYERS, D, D), {"table": draw(V, D), "bias": draw(V)}
    ids = lambda: jnp.asarray(random.integers(0, V, (MICROBATCHES, ROWS, T)))  # noqa: E731
    batch = {"tokens": ids(), "targets": ids(), "number": jnp.arange(MICROBATCHES)}
    weights = jnp.asarray(random.dirichlet(np.ones(MICROBATCHES)), jnp.float32)
    return layers, ends, batch, weights


@pytest.fixture(scope="module")
def twins():
    """Loss and gradients by the number of stages, which the parts' own losses depend on."""
    layers, ends, batch, weights = problem()

    def run(stages):
        def loss(layers, ends):
            def of_one(microbatch, weight):
                x, total, _ = first(ends, microbatch)
                for stage, share in enumerate(layers.reshape(stages, -1, D, D)):
                    x, more, _ = middle(share, x, microbatch, jnp.int32(stage))
                    total += more
                return weight * (total + last(ends, x, microbatch)[0])

            return jax.vmap(of_one)(batch, weights).sum()

        result = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(layers, ends)
        jax.block_until_ready(result)
        jax.effects_barrier()
        return result

    return {stages: run(stages) for stages in (4, 8)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_equals_one_device(twins, name):
    program = instructions(build_schedule(name, RANKS, MICROBATCHES))
    schedule = program.schedule
    layers, ends, batch, weights = problem()
    # A mesh of the one axis: jax 0.10 can't lower callbacks where the compiler has more than one for itself.
    mesh = jax.make_mesh((RANKS,), ("pipeline",), axis_types=(AxisType.Auto,), devices=jax.devices()[:RANKS])
    layout = Layout(mesh, Rules(batch=None))
    run = partial(run_pipeline, StagedModel(first, middle, last), program, layout)
    staged = layers.reshape(schedule.stages, -1, D, D)
    compiled = jax.jit(run).lower(staged, ends, batch, weights).compile()
    seen.clear()
    totals, layers_bar = compiled(*jax.device_put((staged, ends, batch, weights), compiled.input_shardings[0]))
    jax.block_until_ready(layers_bar)
    jax.effects_barrier()

    loss, (expected_layers, expected_ends) = twins[schedule.stages]
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    close(totals.loss, loss)
    close(layers_bar.reshape(layers.shape), expected_layers)
    jax.tree.map(close, totals.ends_bar, expected_ends)
    # Reports are in the order of the stages, and each is of all microbatches.
    close(totals.middle["stage"], np.arange(schedule.stages))
    assert totals.middle["norms"].shape == (schedule.stages, LAYERS // schedule.stages)

    executed = defaultdict(list)
    for microbatch, stage in seen:
        executed[stage].append(microbatch)
    for stage in range(schedule.stages):
        if schedule.directions == 1:
            rank = schedule.placement[0][stage]
            planned = [a for a in schedule.actions(rank) if a.stage == stage and a.kind.value in "BI"]
            assert executed[stage] == [a.microbatch for a in planned], f"backwards on rank {rank}"
    assert len(seen) == schedule.stages * MICROBATCHES, "a backward of each microbatch on each stage, once"

    collectives = find_collectives(compiled.as_text())
    messages = [c for c in collectives if c.kind == "collective-permute" and c.depth == 1]
    assert len(messages) == sum(channel.shift > 0 for channel in program.channels)
    assert {c.trips for c in messages} == {program.ticks}
    assert {c.kind for c in collectives if c.depth} == {"collective-permute"}, "branches don't communicate"
