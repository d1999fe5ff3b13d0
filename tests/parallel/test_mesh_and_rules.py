import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, Rules, param_shardings


def test_minus_one_takes_what_is_left():
    sizes = {"data": 2, "pipeline": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 2}
    assert dict(make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == sizes


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "needs 3 devices, but there are 8.*must equal"),
        ({"data": -1, "tensor": 3}, "needs 3 devices, but there are 8.*must divide"),
        ({"data": -1, "tensor": 16}, "needs 16 devices, but there are 8"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(MeshConfig(**sizes))


@pytest.mark.parametrize(
    ("sizes", "message"), [({"data": 0}, "mesh.data=0"), ({"data": -1, "fsdp": -1}, "only one mesh axis may be -1")]
)
def test_impossible_meshes(sizes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**sizes)


def test_two_logical_axes_on_one_mesh_axis_are_refused():
    with pytest.raises(ValueError, match="two of the logical axes"):
        Rules().spec(("heads", "mlp"))


def test_a_misspelt_axis_is_an_error():
    with pytest.raises(AttributeError, match="haeds"):
        Rules().spec(("haeds",))


def test_rules_name_mesh_axes():
    assert Rules().spec(("embed", "heads", "head_dim")) == PartitionSpec("fsdp", "tensor", None)
    assert Rules().spec(("batch", None)) == PartitionSpec(("data", "fsdp", "expert"), None)


def test_parameters_that_do_not_divide_are_named():
    config = ModelConfig(
        vocab_size=64, d_model=24, num_layers=2, attention=AttentionConfig(num_heads=6), mlp=MLPConfig(d_ff=32)
    )
    with pytest.raises(ValueError, match=r"segments\.0\.0\.mixer\.query: axis 'heads' of size 6 over 4 devices"):
        param_shardings(decoder_spec(config), Layout(make_mesh(MeshConfig(data=2, tensor=4))))


def test_the_batch_is_split_over_data_and_fsdp():
    assert Layout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))).batch_shards == 4
    assert len(jax.devices()) == 8


def test_replicas_are_spread_over_slices_and_the_rest_stays_inside():
    # Devices of two slices, not in order: even ones in the one, odd ones in the other.
    slice_of = lambda device: device.id % 2  # noqa: E731
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, slices=2), slice_of=slice_of)
    ids = np.vectorize(lambda device: device.id)(mesh.devices).reshape(4, 2)
    assert (ids[:2] % 2 == 0).all() and (ids[2:] % 2 == 1).all()
    assert sorted(ids.ravel()) == list(range(8))
    collectives = {tuple(row) for row in ids.tolist()}
    assert all(len({i % 2 for i in group}) == 1 for group in collectives), "what fsdp sends stays in a slice"


@pytest.mark.parametrize(
    ("config", "group", "message"),
    [
        (MeshConfig(data=1, fsdp=8, slices=2), 4, "mesh.data=1 must be a multiple of mesh.slices=2"),
        (
            MeshConfig(data=8, slices=4),
            4,
            r"mesh.slices=4, but the 8 devices lie in 2 slice\(s\): set mesh.slices to 2",
        ),
        (MeshConfig(data=8), 4, r"mesh.slices=1, but the 8 devices lie in 2 slice\(s\)"),
        (MeshConfig(data=8, slices=2), 5, r"each slice needs 4 devices, but slices have \{0: 5, 1: 3\}"),
    ],
)
def test_slices_that_do_not_fit(config, group, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(config, slice_of=lambda device: device.id // group)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"slices": 0}, "mesh.slices must be at least 1"), ({"exchange_room": 0.5}, "less than an even share")],
)
def test_fields_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**fields)
