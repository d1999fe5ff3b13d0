"""Products of axes over a model with Mamba layers beside attention: loss and gradients equal one device's."""

import pytest

from jaxllm.parallel.mesh import MeshConfig
from tests.parallel.tiny_models import MAMBA, assert_equal_to_one_device


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, tensor=2, context=2),
        MeshConfig(data=1, fsdp=2, context=4, context_order="text"),
        MeshConfig(data=1, fsdp=2, tensor=2, context=2, sequence_parallel=True, context_form="all_gather"),
    ],
    ids=["tensor_ring", "fsdp_text_order", "fsdp_tensor_gather"],
)
def test_mamba_beside_attention(mesh):
    assert_equal_to_one_device(MAMBA, mesh)
