"""Experts on different devices: equal to all experts on one, with the statistics of the whole batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxllm.models.channels.exchange import plan_exchange, send, send_back
from jaxllm.models.config import Block
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import Forms, make_layout
from jaxllm.plan.communication import step_traffic
from jaxllm.training.experiment import Experiment, TrainingConfig
from tests.parallel.tiny_models import DENSE, EXPERTS, ONE, ROWS, assert_equal_to_one_device, run

MESH = MeshConfig(data=2, expert=4)


def only(experts):
    """A model of nothing but mixtures of experts, which compiles sooner."""
    return replace(DENSE, pattern=(Block(mixer="none", channel=experts),))


def test_tokens_travel_to_their_experts_and_back():
    many = assert_equal_to_one_device(only(EXPERTS), MESH)
    rows = [c for c in many.collectives if c.kind == "all-to-all" and c.arrays[0][0] == "f32"]
    assert {c.over(many.layout.mesh) for c in rows} == {("expert",)}
    experiment = Experiment(model=only(EXPERTS), mesh=MESH, training=TrainingConfig(batch_size=ROWS))
    (expected,) = [t for t in step_traffic(experiment) if t.operation == "all-to-all"]
    assert sum(c.trips for c in rows) == expected.times == 8  # to and fro, forward and backward, in two layers
    assert sum(c.trips * c.bytes for c in rows) == expected.times * expected.size


def test_slots_are_filled_over_the_expert_axis_too():
    model = only(replace(EXPERTS, dispatch="capacity", capacity_factor=1.0))
    many = assert_equal_to_one_device(model, MeshConfig(data=1, expert=2, context=2))
    assert 0 < many.metrics["dropped"] < 0.5
    across = {c.kind for c in many.collectives if c.over(many.layout.mesh) == ("expert",) and c.arrays[0][0] == "f32"}
    assert "all-to-all" in across


def test_every_expert_on_every_token_is_the_same():
    dense = run(only(replace(EXPERTS, dispatch="dense")), ONE)
    assert run(only(EXPERTS), MESH).loss == pytest.approx(dense.loss, rel=1e-5)


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_rows_come_back_to_where_they_were(room):
    """Experts that multiply by their number; with room for an even share only, what is beyond comes back as zeros."""
    layout = make_layout(MeshConfig(data=1, expert=4), jax.devices()[:4])
    expert = np.sort(np.random.default_rng(0).integers(0, 9, (4, 12)), axis=1)  # 8 experts, and padding
    x = np.random.default_rng(1).normal(size=(4, 12, 3)).astype(np.float32)

    def local(expert_1R, x_1RD):
        sizes_E = (expert_1R[0][:, None] == jnp.arange(8)).sum(0)
        exchange = plan_exchange(Forms(exchange_room=room), "expert", expert_1R[0], sizes_E)
        factor_M = 2 * jax.lax.axis_index("expert") + exchange.expert_M + 1
        back = send_back(exchange, send(exchange, x_1RD[0]) * factor_M[:, None])
        return back[None], exchange.kept[None]

    split = PartitionSpec("expert")
    run = jax.shard_map(local, mesh=layout.mesh, in_specs=(split, split), out_specs=(split, split), check_vma=False)
    back, kept = jax.jit(run)(expert, x)
    wanted = np.where(expert[..., None] < 8, x * (expert[..., None] + 1), 0)
    for device in range(4):
        target = expert[device] // 2
        rank = np.array([np.sum(target[:r] == target[r]) for r in range(12)])
        fits = (expert[device] < 8) & ((rank < 3) if room else True)
        np.testing.assert_allclose(back[device], np.where(fits[:, None], wanted[device], 0), rtol=1e-6)
        assert kept[device] == fits.sum()
    assert room == 0 or kept.sum() < (expert < 8).sum()


def test_a_limited_room_drops_and_says_so():
    limited = run(only(EXPERTS), replace(MESH, exchange_room=1.0))
    assert 0 < limited.metrics["dropped"] < 0.5
    assert run(only(EXPERTS), MESH).metrics["dropped"] == 0


def test_the_ragged_form_lowers_for_a_tpu():
    """The CPU has no ragged all-to-all, so it is lowered only: forward and backward, four of them."""
    layout = make_layout(MeshConfig(data=1, expert=4), jax.devices()[:4])

    def local(expert_R, x_RD):
        sizes_E = jnp.zeros(8, jnp.int32).at[expert_R].add(1)
        exchange = plan_exchange(Forms(exchange="ragged"), "expert", expert_R, sizes_E)
        return jnp.sin(send_back(exchange, send(exchange, x_RD)))

    split = PartitionSpec("expert")
    whole = jax.shard_map(local, mesh=layout.mesh, in_specs=(split, split), out_specs=split, check_vma=False)
    differentiated = jax.jit(jax.grad(lambda x, expert: whole(expert, x).sum()))
    shapes = jax.ShapeDtypeStruct((48, 3), jnp.float32), jax.ShapeDtypeStruct((48,), jnp.int32)
    text = differentiated.trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@ragged_all_to_all") == 4
