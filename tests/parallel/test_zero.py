"""ZeRO's three stages: where the state lies, what is sent, and the same training as on one device."""

from functools import cache

import jax
import numpy as np
import pytest

from jaxllm.models import decoder_spec
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.collectives import find_collectives
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import make_layout
from jaxllm.plan.communication import step_traffic
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer, make_schedule
from jaxllm.training.state import abstract_state, make_state
from jaxllm.training.step import jit_step, make_step
from tests.parallel.tiny_models import DENSE, QUICK, ROWS, batch

OPTIMIZER = OptimizerConfig(warmup_steps=0)
RUN = TrainingConfig(steps=10, batch_size=ROWS, ema_decay=0.5)


@cache
def two_steps(mesh: MeshConfig):
    """The state after two steps, the losses and gradient norms, and the collectives of a step."""
    layout, spec = make_layout(mesh, jax.devices()[: mesh.fsdp]), decoder_spec(DENSE)
    optimizer = make_optimizer(OPTIMIZER, spec, 10)
    target, shardings = abstract_state(spec, optimizer, layout, ema=True)
    step = make_step(next_token(DENSE), optimizer, make_schedule(OPTIMIZER, 10), RUN, spec=spec)
    rows = jax.device_put(batch(), layout.sharding("batch", "length"))
    compiled = jit_step(step, layout, shardings).lower(target, rows).compile(compiler_options=QUICK)
    state = make_state(spec, optimizer, shardings, seed=0, ema=True)
    seen = []
    for _ in range(2):
        state, metrics = compiled(state, rows)
        seen.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return state, seen, find_collectives(compiled.as_text())


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_each_stage(zero):
    mesh = MeshConfig(data=1, fsdp=4, zero=zero)
    state, seen, found = two_steps(mesh)
    one, expected, _ = two_steps(MeshConfig(data=1))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    # On a CPU a reduce-scatter is an all-reduce, so that gradients are sharded shows in the tables only.
    layout = make_layout(mesh, jax.devices()[:4])
    tables = (layout.rules, layout.gradient_rules, layout.state_rules)
    assert [rules.embed == "fsdp" for rules in tables] == [zero >= 3, zero >= 2, True]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, one.params)

    def is_sharded(leaf) -> bool:
        return leaf.addressable_shards[0].data.size * 4 == leaf.size

    matrices = [leaf.ndim > 2 or leaf.shape == (32, 16) for leaf in jax.tree.leaves(state.params)]
    assert [is_sharded(leaf) for leaf in jax.tree.leaves(state.params)] == [zero == 3 and m for m in matrices]
    for moment in (state.opt_state[0].mu, state.opt_state[0].nu, state.ema):
        assert [is_sharded(leaf) for leaf in jax.tree.leaves(moment)] == matrices
    _sends_what_the_closed_form_says(mesh, found)


def _sends_what_the_closed_form_says(mesh, found):
    traffic = step_traffic(Experiment(model=DENSE, mesh=mesh, training=RUN))
    gathered = sum(c.bytes * c.trips for c in found if c.kind == "all-gather")
    expected = sum(t.times * t.size for t in traffic if t.operation == "all-gather")
    table = 4 * DENSE.vocab_size * DENSE.d_model  # tied, so it is gathered once where a layer's matrices are twice
    assert gathered == expected - (table if mesh.zero == 3 else 0)
    # The CPU's compiler writes a reduce-scatter as an all-reduce: every gradient once (the tied table's two parts
    # apart), and a few scalars.
    reduced = sum(c.bytes * c.trips for c in found if c.kind == "all-reduce")
    gradients = sum(t.size for t in traffic if t.what == "gradients")
    assert reduced == pytest.approx(gradients + table, abs=128)
