"""The same step on one device and on eight: same numbers, and no more talk between devices than the layout needs."""

import jax
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig, make_optimizer, make_schedule
from jaxllm.training.state import abstract_state, make_state
from jaxllm.training.step import jit_step, make_step

MODEL = ModelConfig(
    vocab_size=64,
    context_length=16,
    d_model=32,
    num_layers=2,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=64, activation="silu", gated=True),
)
OPTIMIZER = OptimizerConfig(warmup_steps=0)


def batch():
    random = np.random.default_rng(0)
    ids = lambda: random.integers(0, 64, (16, 16)).astype(np.int32)  # noqa: E731
    return {
        "tokens": ids(),
        "targets": ids(),
        "weights": (random.random((16, 16)) > 0.3).astype(np.float32),
        "segment_ids": np.repeat([[1] * 9 + [2] * 7], 16, 0).astype(np.int32),
        "positions": np.repeat([[*range(9), *range(7)]], 16, 0).astype(np.int32),
    }


def two_steps(mesh: MeshConfig, devices=None, accumulation=1):
    layout = Layout(make_mesh(mesh, devices))
    spec = decoder_spec(MODEL)
    optimizer = make_optimizer(OPTIMIZER, spec, 10)
    target, shardings = abstract_state(spec, optimizer, layout)
    config = TrainingConfig(steps=10, batch_size=16, accumulation=accumulation)
    step = make_step(next_token(MODEL, z_loss=1e-4), optimizer, make_schedule(OPTIMIZER, 10), config)
    step = jit_step(step, layout, shardings)
    state = make_state(spec, optimizer, shardings, seed=0, ema=False)
    placed = jax.device_put(batch(), layout.sharding("batch", "length"))
    rows = []
    for _ in range(2):
        state, metrics = step(state, placed)
        rows.append({name: float(value) for name, value in metrics.items()})
    return rows, jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def one_device():
    return two_steps(MeshConfig(data=1), jax.devices()[:1])


@pytest.mark.parametrize(
    ("mesh", "accumulation"),
    [
        (MeshConfig(data=8), 1),
        (MeshConfig(data=1, fsdp=8), 1),
        (MeshConfig(data=4, tensor=2), 1),
        (MeshConfig(data=2, fsdp=2, tensor=2), 1),
        (MeshConfig(data=2, fsdp=2, tensor=2), 4),
        (MeshConfig(data=2, context=2, tensor=2), 2),
    ],
    ids=str,
)
def test_eight_devices_equal_one(one_device, mesh, accumulation):
    rows, params = two_steps(mesh, accumulation=accumulation)
    expected_rows, expected_params = one_device
    for row, expected in zip(rows, expected_rows, strict=True):
        for name in ("loss", "nll", "grad_norm", "weight"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
    # After Adam's first steps every element has moved by about the learning rate, 6e-4: rounding is far below.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected_params)
