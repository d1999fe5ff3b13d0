"""Products of axes over dense, mixture-of-experts and Mamba models: loss and gradients equal one device's."""

from dataclasses import replace

import pytest

from jaxllm.models import LatentAttentionConfig
from jaxllm.models.config import Block, MultiTokenConfig
from jaxllm.parallel.mesh import MeshConfig
from tests.parallel.tiny import DENSE, EXPERTS, MAMBA, MOE, assert_equal_to_one_device

LATENT = replace(
    DENSE,
    num_layers=1,
    pattern=(
        Block(mixer=LatentAttentionConfig(num_heads=4, q_rank=8, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=4)),
    ),
    multi_token=MultiTokenConfig(depth=1),
)
_ = EXPERTS


@pytest.mark.parametrize(
    ("model", "mesh"),
    [
        (DENSE, MeshConfig(data=2, fsdp=2, tensor=2, sequence_parallel=True)),
        (DENSE, MeshConfig(data=1, fsdp=2, tensor=2, context=2, sequence_parallel=True, context_form="all_gather")),
        (DENSE, MeshConfig(data=1, tensor=4, context=2, context_form="ulysses")),
        (LATENT, MeshConfig(data=2, tensor=2, context=2)),
    ],
    ids=str,
)
def test_dense(model, mesh):
    assert_equal_to_one_device(model, mesh)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=1, fsdp=2, tensor=2, expert=2, sequence_parallel=True),
        MeshConfig(data=1, context=2, tensor=2, expert=2, zero=1),
        MeshConfig(data=1, fsdp=2, context=2, expert=2, context_form="ulysses"),
        MeshConfig(data=2, tensor=2, context=2, zero=2),
    ],
    ids=str,
)
def test_mixtures_of_experts(mesh):
    assert_equal_to_one_device(MOE, mesh)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, tensor=2, context=2),
        MeshConfig(data=1, fsdp=2, context=4, context_order="text"),
        MeshConfig(data=1, fsdp=2, tensor=2, context=2, sequence_parallel=True, context_form="all_gather"),
        MeshConfig(data=2, fsdp=4, zero=2),
    ],
    ids=str,
)
def test_mamba_beside_attention(mesh):
    assert_equal_to_one_device(MAMBA, mesh)
