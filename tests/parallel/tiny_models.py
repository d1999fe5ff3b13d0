"""Tiny models, a packed batch, and the loss and gradients of these on any mesh: compiled once, looked at by many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.config import Block, MambaConfig, MoEConfig
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.collectives import Collective, find_collectives
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import Layout, constrain_gradients, make_layout, param_shardings, use_layout
from jaxllm.parallel.text_order import arrange
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.mesh_fit import check_mesh

ROWS, LENGTH = 8, 16
# Machine code that runs for milliseconds need not be good.
QUICK = {"xla_backend_optimization_level": 0}

DENSE = ModelConfig(
    vocab_size=32,
    context_length=LENGTH,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=8, num_kv_heads=4),
    mlp=MLPConfig(d_ff=32, activation="silu", gated=True),
)
EXPERTS = MoEConfig(num_experts=4, top_k=2, d_ff=16, load_loss=0.01, sequence_loss=0.01, z_loss=0.01)
MOE = replace(DENSE, pattern=(Block(channel=EXPERTS),))
MAMBA = replace(DENSE, pattern=(Block(mixer=MambaConfig(d_state=4, chunk=4)), Block()))
ONE = MeshConfig(data=1)


@dataclass(frozen=True)
class Run:
    """What a model did on a mesh."""

    loss: np.ndarray
    metrics: dict[str, Any]
    gradients: Any
    collectives: tuple[Collective, ...]
    layout: Layout


def batch() -> dict[str, np.ndarray]:
    """Rows of two documents and padding, as numpy arrays [ROWS, LENGTH]."""
    random = np.random.default_rng(0)
    ids = lambda: random.integers(0, 32, (ROWS, LENGTH)).astype(np.int32)  # noqa: E731
    row = lambda *values: np.repeat([values], ROWS, 0).astype(np.int32)  # noqa: E731
    segment_ids = row(*[1] * 9, *[2] * 5, 0, 0)
    return {
        "tokens": ids(),
        "targets": ids(),
        "weights": ((random.random((ROWS, LENGTH)) > 0.3) * (segment_ids > 0)).astype(np.float32),
        "segment_ids": segment_ids,
        "positions": row(*range(9), *range(5), 0, 1),
    }


@cache
def run(model: ModelConfig, mesh: MeshConfig) -> Run:
    """Loss, metrics and gradients of one batch, on as many devices as the mesh's axes need."""
    devices = int(np.prod(list(mesh.sizes().values())))
    layout, spec = make_layout(mesh, jax.devices()[:devices]), decoder_spec(model)
    check_mesh(Experiment(model=model, mesh=mesh, training=TrainingConfig(batch_size=ROWS)), layout.mesh.shape)
    objective = next_token(model, z_loss=1e-4)

    def differentiate(params, batch):
        with use_layout(layout):
            (loss, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(params, arrange(batch))
            return loss, metrics, constrain_gradients(spec, gradients)

    shardings = param_shardings(spec, layout), layout.sharding("batch", "length")
    params = jax.jit(lambda: initialize(spec, jax.random.key(0)), compiler_options=QUICK)()
    lowered = jax.jit(differentiate, in_shardings=shardings).lower(params, batch())
    compiled = lowered.compile(compiler_options=QUICK)
    loss, metrics, gradients = jax.tree.map(np.asarray, compiled(*jax.device_put((params, batch()), shardings)))
    return Run(loss, metrics, gradients, find_collectives(compiled.as_text()), layout)


def assert_equal_to_one_device(model: ModelConfig, mesh: MeshConfig) -> Run:
    """Loss to 1e-5, and each gradient to 1e-5 of its largest element."""
    one, many = run(model, ONE), run(model, mesh)
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    for name in {"nll", "accuracy", "router_loss", "dropped"} & set(one.metrics):
        assert many.metrics[name] == pytest.approx(one.metrics[name], rel=1e-5, abs=1e-7), name
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(same, many.metrics.get("load"), one.metrics.get("load"))

    def close(path, ours, theirs):
        size = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * size + 1e-9, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, many.gradients, one.gradients)
    return many
