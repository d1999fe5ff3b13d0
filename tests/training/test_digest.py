"""A digest must see every change of an array and nothing of how it is laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.training.digest import digests

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "uint8"]
SHAPES = [(), (5,), (4, 6), (2, 3, 8)]


def digest(array: np.ndarray) -> int:
    return digests({"x": jnp.asarray(array)})["x"]


@st.composite
def arrays(draw) -> np.ndarray:
    """Any bits, NaNs included, of one of a few shapes and types: each pair compiles once."""
    shape, dtype = draw(st.sampled_from(SHAPES)), jnp.dtype(draw(st.sampled_from(DTYPES)))
    content = draw(
        st.binary(min_size=int(np.prod(shape)) * dtype.itemsize, max_size=int(np.prod(shape)) * dtype.itemsize)
    )
    return np.frombuffer(content, np.uint8).copy().view(dtype).reshape(shape)


@given(arrays(), st.data())
def test_a_single_flipped_bit_is_seen(array, data):
    other = array.copy()
    flat = other.reshape(-1).view(np.uint8)
    flat[data.draw(st.integers(0, flat.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert digest(other) != digest(array)


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5]), min_size=40, max_size=40), st.data())
def test_swapped_elements_are_seen_even_of_round_numbers(numbers, data):
    array = np.array(numbers, np.float32)
    i, j = (data.draw(st.integers(0, 39)) for _ in range(2))
    other = array.copy()
    other[[i, j]] = array[[j, i]]
    assert (digest(other) == digest(array)) == (array[i] == array[j])


def test_every_swap_of_a_one_and_a_two_is_seen():
    """Their bits differ in the highest few only, where a product modulo 2^32 would lose them."""
    base = np.ones(600, np.float32)
    base[0] = 2.0
    places = {digest(np.roll(base, n)) for n in range(600)}
    assert len(places) == 600


def test_rows_and_columns_are_not_mixed_up():
    array = np.arange(36, dtype=np.float32).reshape(6, 6)
    assert digest(array) != digest(array.T)
    assert digest(array) != digest(array[::-1])


def test_the_same_array_under_another_name_has_another_digest():
    a, b = digests({"a": jnp.ones(3), "b": jnp.ones(3)}).values()
    assert a != b


def test_booleans():
    assert digest(np.array([True, False])) != digest(np.array([False, True]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint32"])
def test_sharding_does_not_matter(dtype):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    content = np.random.default_rng(0).integers(0, 255, (8, 4, 16 * jnp.dtype(dtype).itemsize)).astype(np.uint8)
    array = content.view(jnp.dtype(dtype))
    layouts = [
        (),
        ("data",),
        ("fsdp", None, "tensor"),
        (("data", "fsdp"), "tensor"),
        (None, None, ("tensor", "data", "fsdp")),
    ]
    found = {digests({"x": jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))})["x"] for axes in layouts}
    assert found == {digest(array)}


def test_elements_of_eight_bytes_are_seen_whole():
    with jax.enable_x64(True):
        low, high = np.float64(1.0) + 2**-52, np.float64(1.0)
        assert digest(np.array([low])) != digest(np.array([high]))
        assert digest(np.array([1 << 40])) != digest(np.array([1 << 41]))
