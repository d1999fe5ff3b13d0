"""Products of axes over a dense model and one of latent attention: loss and gradients equal one device's."""

from dataclasses import replace

import pytest

from jaxllm.models.config import Block, LatentAttentionConfig, MultiTokenConfig
from jaxllm.parallel.mesh import MeshConfig
from tests.parallel.tiny_models import DENSE, assert_equal_to_one_device

MIXER = LatentAttentionConfig(num_heads=4, q_rank=8, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=4)
LATENT = replace(DENSE, num_layers=1, pattern=(Block(mixer=MIXER),), multi_token=MultiTokenConfig(depth=1))


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        (DENSE, MeshConfig(data=1, fsdp=2, tensor=2, context=2, sequence_parallel=True, context_form="all_gather")),
        (DENSE, MeshConfig(data=1, tensor=4, context=2, context_form="ulysses")),
        (DENSE, MeshConfig(data=1, tensor=8, replicate_kv=True)),
        (LATENT, MeshConfig(data=2, tensor=2, context=2)),
    ],
    ids=["fsdp_tensor_context", "tensor_ulysses", "replicated_kv", "latent_multi_token_ring"],
)
def test_dense(model, mesh):
    assert_equal_to_one_device(model, mesh)


def test_the_stream_between_mixers_is_split_along_the_text():
    run = assert_equal_to_one_device(DENSE, MeshConfig(data=2, fsdp=2, tensor=2, sequence_parallel=True))
    along = [c for c in run.collectives if c.depth and c.over(run.layout.mesh) == ("tensor",)]
    stream = ("f32", (2, 16, 16))  # of one device; the whole length, once gathered
    gathers = [c for c in along if c.kind == "all-gather"]
    assert {array for c in gathers for array in c.arrays} == {stream}
    # Before attention and the MLP; backward before both again, to where their results were scattered from.
    assert len(gathers) == 4
    # A CPU's reduce-scatter is an all-reduce that each device takes its slice of: one for each mixer, and backward.
    sums = [c for c in along if c.kind == "all-reduce" and any(name in c.op_name for name in ("mixer/", "channel/"))]
    assert len([c for c in sums if stream in c.arrays]) == 4
    assert {c.kind for c in along} == {"all-gather", "all-reduce"}
