"""The search for what fits, with a compiler of one's own; meshes are those that libtpu's topologies allow."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan.memory_search import meshes, search
from jaxllm.plan.out_of_memory import OutOfMemory
from jaxllm.plan.topology import read_topology
from jaxllm.training.experiment import Experiment, TrainingConfig
from tests.plan.tpu import needs_libtpu

pytestmark = needs_libtpu

SLICE = read_topology("v5e:2x2")
RUN = Experiment(
    model=ModelConfig(
        vocab_size=128,
        context_length=64,
        d_model=64,
        num_layers=2,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2),
        mlp=MLPConfig(d_ff=128),
    ),
    training=TrainingConfig(batch_size=16),
    mesh=MeshConfig(data=1, fsdp=4),
)
KEPT = {"none": 10, "dots": 4, "full": 1}
SLOWER = {"none": 0, "dots": 1, "full": 2}


def compiler(limit):
    """Memory grows with rows and with what the policy keeps, and falls with the tensor axis; each microbatch, each
    recomputation and each tensor way costs time."""
    asked = []

    def compile(experiment, topology):
        training, mesh = experiment.training, experiment.mesh
        asked.append((mesh.tensor, training.accumulation, training.remat))
        rows = training.batch_size // training.accumulation // (mesh.data * mesh.fsdp)
        needed = rows * KEPT[training.remat] / mesh.tensor
        if needed > limit:
            raise OutOfMemory(needed, limit, (), ())
        seconds = training.accumulation + SLOWER[training.remat] + 10 * mesh.tensor
        return SimpleNamespace(
            memory=SimpleNamespace(peak=needed, limit=limit), timing=SimpleNamespace(worst=seconds, best=seconds)
        )

    return compile, asked


def test_the_meshes_that_a_slice_a_model_and_a_batch_allow():
    # Two key/value heads do not go over four devices.
    assert [(m.fsdp, m.tensor, shards) for m, shards in meshes(RUN, SLICE)] == [(4, 1, 4), (2, 2, 2)]
    own = replace(RUN, mesh=MeshConfig(data=2, fsdp=2))
    assert [(m.data, m.fsdp, m.tensor) for m, _ in meshes(own, SLICE)] == [(2, 2, 1), (1, 4, 1), (1, 2, 2)]


def test_room_is_used_and_the_shortest_step_wins():
    compile, asked = compiler(limit=20)
    best, *others = search(RUN, SLICE, compile=compile)
    assert (best.experiment.mesh.tensor, best.experiment.training.accumulation) == (1, 2)
    assert best.experiment.training.remat == "none"
    # One row first, then two, then four, which is too much; then the other mesh.
    assert asked[:3] == [(1, 4, "none"), (1, 2, "none"), (1, 1, "none")]
    assert [c.compiled is None for c in others][-1], "what does not fit comes last"


def test_no_more_rows_are_tried_than_one_step_too_many():
    compile, asked = compiler(limit=10)
    search(RUN, SLICE, compile=compile)
    assert asked == [(1, 4, "none"), (1, 2, "none"), (2, 8, "none"), (2, 4, "none"), (2, 2, "none")]


def test_little_room_takes_the_policy_that_keeps_least():
    compile, asked = compiler(limit=1)
    best = search(RUN, SLICE, compile=compile)[0]
    assert (best.experiment.training.remat, best.experiment.training.accumulation) == ("full", 4)
    assert asked[:3] == [(1, 4, "none"), (1, 4, "dots"), (1, 4, "full")]
    assert best.experiment.training.batch_size == 16, "the batch stays what it is"


def test_the_number_of_compilations_is_kept_to():
    compile, asked = compiler(limit=20)
    assert len(search(RUN, SLICE, most=2, compile=compile)) == len(asked) == 2


def test_nothing_fits():
    compile, _ = compiler(limit=0.1)
    with pytest.raises(ValueError, match=r"nothing that was tried fits into v5e:2x2; the least was fsdp=2 x tensor=2"):
        search(RUN, SLICE, compile=compile)


def test_no_mesh_suits():
    compile, _ = compiler(limit=20)
    odd = replace(RUN, training=TrainingConfig(batch_size=3), mesh=MeshConfig(data=1, fsdp=4))
    with pytest.raises(ValueError, match="no mesh of data, fsdp and tensor suits v5e:2x2: a batch of 3 rows"):
        search(odd, SLICE, compile=compile)
