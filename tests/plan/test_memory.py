"""Training memory: the state exactly, activations as jax keeps them, both against what a compiler says."""

from dataclasses import replace

import jax
import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import abstract
from jaxllm.objectives.next_token import next_token
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan.activations import activations
from jaxllm.plan.flops import parameter_count
from jaxllm.plan.memory import abstract_mesh, memory_report, training_memory
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig
from jaxllm.training.precision import PrecisionConfig

MODEL = ModelConfig(
    vocab_size=512,
    context_length=128,
    d_model=64,
    num_layers=6,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=256, activation="silu", gated=True),
)
RUN = Experiment(model=MODEL, training=TrainingConfig(steps=1000, batch_size=8))


def test_sixteen_bytes_a_parameter_with_adam():
    """Weights, gradients and two moments in float32; counters apart."""
    used = training_memory(RUN)
    state = used.weights + used.gradients + used.optimizer
    assert state == pytest.approx(16 * parameter_count(MODEL), abs=64)
    assert used.total == state + used.average + used.kept_activations + used.working_activations + used.loss


@pytest.mark.parametrize(("kind", "per_parameter"), [("lion", 4), ("schedule_free", 12), ("adamw", 8)])
def test_states_of_update_rules(kind, per_parameter):
    used = training_memory(replace(RUN, optimizer=OptimizerConfig(kind=kind)))
    assert used.optimizer == pytest.approx(per_parameter * parameter_count(MODEL), abs=64)


def test_a_mesh_divides_the_state_and_the_batch():
    one, eight = training_memory(RUN), training_memory(replace(RUN, mesh=MeshConfig(data=1, fsdp=8)))
    for part in ("weights", "gradients", "optimizer"):
        share = getattr(eight, part) / getattr(one, part)
        assert 1 / 8 < share < 1 / 7, part  # norms are not divided
    # All but the table of attention masks, positions and the like, which rows do not share.
    assert eight.kept_activations == pytest.approx(one.kept_activations / 8, rel=0.01)
    data = training_memory(replace(RUN, mesh=MeshConfig(data=8)))
    assert (data.weights, data.kept_activations) == (one.weights, eight.kept_activations)


def test_averages_and_accumulation():
    training = replace(RUN.training, ema_decay=0.99, accumulation=4)
    one, used = training_memory(RUN), training_memory(replace(RUN, training=training))
    assert used.average == used.weights
    assert used.gradients == 2 * one.gradients
    assert used.kept_activations < one.kept_activations / 3.9


def test_full_remat_keeps_the_inputs_of_layers():
    kept = activations(MODEL, 8, 128, "full")
    assert kept.kept == pytest.approx(6 * 8 * 128 * 64 * 4, rel=0.001)
    none, dots = (activations(MODEL, 8, 128, remat) for remat in ("none", "dots"))
    assert kept.kept < dots.kept < none.kept
    assert none.working == 0
    # What all layers share, masks and angles, is kept once in six layers, and once in the one computed again.
    assert kept.working == dots.working
    assert none.kept / 6 < kept.working < 1.3 * none.kept / 6


def test_long_texts_cost_their_square_without_remat():
    short, long = (activations(MODEL, 1, length, "none").kept for length in (512, 2048))
    assert 4 * short < long < 16 * short


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_the_compiler_agrees(remat):
    """Temporary memory of a compiled gradient lies within a factor of what is planned."""
    types = {"tokens": "int32", "targets": "int32", "weights": "float32", "segment_ids": "int32", "positions": "int32"}
    batch = {name: jax.ShapeDtypeStruct((8, 128), t) for name, t in types.items()}
    loss = next_token(MODEL, remat=remat)
    gradient = jax.jit(jax.grad(lambda p, b: loss(p, b)[0]))
    analysis = gradient.lower(abstract(decoder_spec(MODEL)), batch).compile().memory_analysis()
    used = training_memory(replace(RUN, training=replace(RUN.training, remat=remat)))
    planned = used.kept_activations + used.working_activations + used.loss
    assert 0.6 < analysis.temp_size_in_bytes / planned < 1.6


def test_meshes_without_devices():
    assert dict(abstract_mesh(MeshConfig(data=-1, fsdp=4), 16).shape)["data"] == 4
    for config, devices in ((MeshConfig(data=-1, fsdp=3), 16), (MeshConfig(data=2), 4)):
        with pytest.raises(ValueError, match="does not fit"):
            abstract_mesh(config, devices)
    with pytest.raises(ValueError, match="a microbatch of 8 rows can't be divided over 16 devices"):
        training_memory(replace(RUN, mesh=MeshConfig(data=16)))


def test_stored_types_and_host_memory():
    half = PrecisionConfig(parameters="bfloat16", optimizer_state="bfloat16")
    full, used = training_memory(RUN), training_memory(replace(RUN, precision=half))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(used, part) == pytest.approx(getattr(full, part) / 2, rel=0.01), part  # norms stay in float32
    offloaded = training_memory(replace(RUN, training=replace(RUN.training, offload_optimizer=True, remat="offload")))
    assert offloaded.optimizer <= 8 and offloaded.host == pytest.approx(full.optimizer + 6 * 8 * 128 * 64 * 4, abs=8)
    assert offloaded.total < full.total - full.optimizer + 8
    summed = training_memory(replace(RUN, precision=half, training=replace(RUN.training, accumulation=2)))
    assert summed.gradients == pytest.approx(used.gradients + full.weights, rel=1e-6)
    (line,) = memory_report(replace(RUN, training=replace(RUN.training, remat="full")))
    assert line.startswith("by arithmetic, MiB per device: parameters 1.") and "activations (remat full)" in line
