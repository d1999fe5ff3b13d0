import jax
import pytest
from jax.sharding import PartitionSpec

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout, Rules, param_shardings


def test_minus_one_takes_what_is_left():
    assert dict(make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
        "pipeline": 1,
    }


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
    assert Rules().spec(("batch", None)) == PartitionSpec(("data", "fsdp"), None)


def test_parameters_that_do_not_divide_are_named():
    config = ModelConfig(
        vocab_size=64, d_model=24, num_layers=2, attention=AttentionConfig(num_heads=6), mlp=MLPConfig(d_ff=32)
    )
    with pytest.raises(ValueError, match=r"segments\.0\.0\.mixer\.query: axis 'heads' of size 6 over 4 devices"):
        param_shardings(decoder_spec(config), Layout(make_mesh(MeshConfig(data=2, tensor=4))))


def test_the_batch_is_split_over_data_and_fsdp():
    assert Layout(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))).batch_shards == 4
    assert len(jax.devices()) == 8
