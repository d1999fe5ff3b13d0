"""What the compiled training step sends between devices under each layout: kinds, counts, axes and sizes."""

from collections import Counter

import jax
import pytest

from jaxllm.models import decoder_spec
from jaxllm.models.declare import count
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.collectives import collective_bytes, count_collectives, find_collectives
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.optimizers import make_optimizer, make_schedule
from jaxllm.training.state import abstract_state
from jaxllm.training.step import jit_step, make_step
from tests.parallel.test_layouts import MODEL, OPTIMIZER, batch

PARAMETER_BYTES = 4 * count(decoder_spec(MODEL))


def compiled_step(mesh: MeshConfig, devices: int):
    layout = Layout(make_mesh(mesh, jax.devices()[:devices]))
    spec = decoder_spec(MODEL)
    optimizer = make_optimizer(OPTIMIZER, spec, 10)
    target, shardings = abstract_state(spec, optimizer, layout)
    config = TrainingConfig(steps=10, batch_size=16)
    step = jit_step(make_step(next_token(MODEL), optimizer, make_schedule(OPTIMIZER, 10), config), layout, shardings)
    rows = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in batch().items()}
    return step.lower(target, rows).compile().as_text(), layout.mesh


def test_data_parallel_reduces_each_gradient_once():
    text, mesh = compiled_step(MeshConfig(data=8), 8)
    # In the layers' loop one for all gradients of a layer; outside one for tables and sums, one for the weights' total.
    assert count_collectives(text) == {("all-reduce", 1): 1, ("all-reduce", 0): 2}
    found = find_collectives(text)
    assert {c.over(mesh) for c in found} == {("data",)}
    # Every parameter's gradient once (the tied table's two parts apart), and a few scalars.
    table = 4 * MODEL.vocab_size * MODEL.d_model
    assert collective_bytes(found)["all-reduce"] == pytest.approx(PARAMETER_BYTES + table, abs=64)


def test_fsdp_gathers_each_layers_weights_twice_and_no_activation():
    text, mesh = compiled_step(MeshConfig(data=1, fsdp=8), 8)
    found = find_collectives(text)
    kinds = count_collectives(text)
    # Seven matrices a layer, forward and again backward; the table once.
    assert kinds["all-gather", 1] == 14
    assert kinds["all-gather", 0] == 1
    # The CPU's compiler writes a reduce-scatter as an all-reduce of which each device takes its slice.
    assert kinds["all-reduce", 1] == 1
    assert {c.over(mesh) for c in found} == {("fsdp",)}
    shapes = Counter(shape for c in found if c.kind == "all-gather" and c.depth for _, shape in c.arrays)
    weights = {(32, 4, 8): 2, (32, 2, 8): 4, (4, 8, 32): 2, (32, 64): 4, (64, 32): 2}
    assert shapes == weights, "an activation has a batch axis"


def test_tensor_parallel_reduces_after_attention_and_after_the_mlp():
    text, mesh = compiled_step(MeshConfig(data=1, tensor=2), 2)
    found = find_collectives(text)
    assert {c.kind for c in found} == {"all-reduce"}, "nothing is gathered: weights and heads stay where they are"
    assert {c.over(mesh) for c in found} == {("tensor",)}
    in_layers = [c for c in found if c.depth and any(name in c.op_name for name in ("mixer/", "channel/"))]
    assert len(in_layers) == 4, "one each for attention and MLP, forward and backward"
    # [B, T, D]: the residual stream, and nothing as wide as the MLP or as long as the keys.
    assert {shape for c in in_layers for _, shape in c.arrays} == {(16, 16, 32)}


def test_one_device_talks_to_nobody():
    assert not find_collectives(compiled_step(MeshConfig(data=1), 1)[0])


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no HLO text"):
        find_collectives("nothing")
