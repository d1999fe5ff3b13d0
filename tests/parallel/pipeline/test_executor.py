"""Every schedule, executed on four ranks with a model small enough to compile eight times: gradients and order."""

from dataclasses import fields
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
seen: list[tuple[str, int, int]] = []  # kind, microbatch and stage of what is computed, as it happens


def write_down(kind, microbatch, stage):
    jax.debug.callback(lambda microbatch, stage: seen.append((kind, int(microbatch), int(stage))), microbatch, stage)


@jax.custom_vjp
def witnessed(x, microbatch, stage):
    """The identity. A forward that is not part of a backward is written down, and so is the gradient."""
    write_down("F", microbatch, stage)
    return x


def witnessed_backward(residuals, x_bar):
    write_down("B", *residuals)
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


def rank_of(schedule, kind, microbatch, stage):
    """Of DualPipe's two directions the second has the later half of the microbatches."""
    return schedule.placement[microbatch * schedule.directions // MICROBATCHES][stage]


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
    layout = Layout(mesh, Rules(**{field.name: None for field in fields(Rules)}))
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

    for rank, program_of_rank in enumerate(schedule.programs):
        # The gradient of weights has no witness, and the last stage no forward of its own. A pair may come either way.
        steps = [[a for a in step if a.kind.value != "W"] for step in program_of_rank]
        steps = [{(a.kind.value.replace("I", "B"), a.microbatch, a.stage) for a in step} for step in steps]
        steps = [{(k, m, s) for k, m, s in step if k != "F" or s < schedule.stages - 1} for step in steps]
        executed = iter([step for step in seen if rank_of(schedule, *step) == rank])
        assert [{next(executed) for _ in step} for step in steps] == steps
        assert not list(executed)

    collectives = find_collectives(compiled.as_text())
    messages = [c for c in collectives if c.kind == "collective-permute" and c.depth == 1]
    assert len(messages) == sum(channel.shift > 0 for channel in program.channels)
    assert {c.trips for c in messages} == {program.ticks}
    assert {c.kind for c in collectives if c.depth} == {"collective-permute"}, "branches don't communicate"
