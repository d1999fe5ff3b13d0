"""Products of axes over a mixture of experts: loss, gradients and router statistics equal one device's."""

import pytest

from jaxllm.parallel.mesh import MeshConfig
from tests.parallel.tiny_models import MOE, assert_equal_to_one_device


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=1, fsdp=2, tensor=2, expert=2, sequence_parallel=True, zero=2),
        MeshConfig(data=1, context=2, tensor=2, expert=2),
        MeshConfig(data=1, fsdp=2, context=2, expert=2, context_form="ulysses"),
    ],
    ids=["fsdp_tensor_expert", "context_tensor_expert", "fsdp_ulysses_expert"],
)
def test_mixture_of_experts(mesh):
    assert_equal_to_one_device(MOE, mesh)
