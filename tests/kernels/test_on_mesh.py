"""Kernels on a mesh of fake devices, interpreted, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxllm.kernels.flash_attention import flash_attention, reference_flash_attention
from jaxllm.kernels.platform import device_kind, interpreting
from jaxllm.kernels.state_space_scan import reference_state_space_scan, state_space_scan
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import Layout, make_layout, use_layout


@pytest.fixture
def mesh():
    """Two parts of the batch, two of the heads."""
    layout = make_layout(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    with use_layout(layout), interpreting():
        yield layout


def draw(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("rows, kv_heads", [(2, 1), (3, 2)])
def test_attention(mesh, rows, kv_heads):
    """One key/value head lies whole on every device, and so do rows that the mesh does not divide."""
    q, k, v, sinks = draw((rows, 128, 4, 8), (rows, 128, kv_heads, 8), (rows, 128, kv_heads, 8), (4,))
    ids = jnp.broadcast_to(jnp.arange(128) // 50, (rows, 128))
    out = jax.jit(flash_attention)(q, k, v, ids, sinks_H=sinks)
    np.testing.assert_allclose(out, reference_flash_attention(q, k, v, ids, sinks_H=sinks), atol=2e-5)


def test_a_scan(mesh):
    inputs = draw((2, 4, 8, 16), (2, 12, 4, 8), (2, 12, 4), (2, 12, 1, 16), (2, 12, 1, 16))
    inputs[2] = -jnp.exp(inputs[2])
    starts = jnp.arange(12)[None] == jnp.array([[5], [8]])
    found = jax.jit(lambda *args: state_space_scan(*args, 8))(*inputs, starts)
    expected = reference_state_space_scan(*inputs, starts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_attention_inside_a_part_of_the_program_that_takes_an_axis_apart_by_itself():
    """As the stages of a pipeline do."""
    q, k, v = draw((2, 128, 2, 8), (2, 128, 2, 8), (2, 128, 2, 8))
    layout = make_layout(MeshConfig(data=1, context=2, tensor=2), jax.devices()[:4])

    def stage(*arrays):
        with use_layout(Layout(jax.sharding.get_abstract_mesh(), layout.rules)):
            assert device_kind() == "cpu"
            return flash_attention(*arrays)

    whole = PartitionSpec()
    staged = jax.shard_map(
        stage, mesh=layout.mesh, axis_names={"context"}, in_specs=whole, out_specs=whole, check_vma=False
    )
    with interpreting():
        out = jax.jit(staged)(q, k, v)
    np.testing.assert_allclose(out, reference_flash_attention(q, k, v), atol=2e-5)


def test_heads_that_the_mesh_does_not_divide_are_refused(mesh):
    q, k, v = draw((2, 128, 6, 8), (2, 128, 3, 8), (2, 128, 3, 8))
    with pytest.raises(ValueError, match="splits the axis 'act_heads' of a kernel's operand, of size 3, over 2 dev"):
        flash_attention(q, k, v)
