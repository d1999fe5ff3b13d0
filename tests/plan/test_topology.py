"""Slices of TPU pods: their names, what there is, what joins their chips. The compiler is asked where it is here."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxllm.parallel.collectives import Collective
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan import topology
from jaxllm.plan.ahead import topology_mesh
from jaxllm.plan.interconnect import path_along, seconds
from jaxllm.plan.topology import GENERATIONS, compile_only_devices, read_topology
from tests.plan.tpu import needs_libtpu


@pytest.mark.parametrize(
    ("name", "other", "chips"),
    [
        ("v5e:8x8", "v5e-64", 64),
        ("v6e:16x16", "v6e-256", 256),
        # These count TensorCores, two a chip.
        ("v5p:4x4x4", "v5p-128", 64),
        ("v5p:4x8x8", "v5p-512", 256),
        ("v5p:8x16x16", "v5p-4096", 2048),
        ("tpu7x:4x4x4", "tpu7x-128", 64),
    ],
)
def test_both_names_of_a_slice(name, other, chips):
    assert read_topology(name) == read_topology(other)
    assert (read_topology(name).name, read_topology(name).accelerator) == (name, other)
    assert read_topology(name).chips == chips


def test_slices_beyond_the_usual_ones():
    assert read_topology("v5p:4x4x12").chips == 192
    assert read_topology("v5e:16x16", slices=4).chips == 1024
    assert read_topology("tpu7x:2x2x1").devices == 8, "JAX sees two devices a chip"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e:3x3", "no slice 'v5e:3x3'"),
        ("v5p:12x4x4", "no slice 'v5p:12x4x4'"),
        ("v5p:32x32x32", "no slice"),
        ("v5p-100", "no slice 'v5p-100' of the usual shapes"),
        ("v5x:4x4", "unknown topology 'v5x:4x4'; did you mean v5"),
        ("h100", "unknown topology 'h100'"),
        ("v4:2x2x2", "v4 can't be compiled for: libtpu describes its two cores"),
        ("", "unknown topology ''"),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_topology(name)
    assert "v5e:8x8 = v5e-64" in str(caught.value)
    assert "v5p:8x16x16 = v5p-4096" in str(caught.value)


def test_slices_are_at_least_one():
    with pytest.raises(ValueError, match="--slices must be at least 1, got 0"):
        read_topology("v5e:4x4", slices=0)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(topology, "libtpu_installed", lambda: False)
    with pytest.raises(ValueError, match=r"needs its compiler, libtpu, but no TPU: pip install 'jaxllm\[tpu\]'"):
        compile_only_devices(read_topology("v5e:2x2"))


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:1x1", "v5e:4x4", "v5p:4x4x8", "v6e:2x4", "tpu7x:2x2x1", "v5p:4x4x12"])
def test_the_compiler_knows_them_too(name):
    slice_ = read_topology(name)
    devices = compile_only_devices(slice_)
    assert len(devices) == slice_.devices
    assert devices[0].device_kind == slice_.generation.hardware.name
    extent = np.array([device.coords for device in devices]).max(0) + 1
    assert tuple(extent)[: len(slice_.shape)] == slice_.shape


@needs_libtpu
@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_is_left_to_programs_is_what_the_compiler_says(generation):
    """It refuses a program that needs too much, and says how much there is."""
    slice_ = read_topology(f"{generation}:{'2x2x1' if GENERATIONS[generation].dimensions == 3 else '2x2'}")
    place = jax.sharding.SingleDeviceSharding(compile_only_devices(slice_)[0])
    rows = 2**20
    x = jax.ShapeDtypeStruct((rows, 8), "bfloat16", sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"exceeds available HBM \({slice_.generation.hbm:g}G\)"):
        jax.jit(lambda x: jax.numpy.sort(x @ x.T).sum()).lower(x).compile()


def torus(shape, axes, **sizes):
    """A mesh of devices that have places in a torus: `axes` says which dimensions each mesh axis lies on."""
    grid = np.empty(shape, object)
    for place in np.ndindex(shape):
        grid[place] = SimpleNamespace(coords=place)
    devices = grid.transpose([d for dimensions in axes for d in dimensions]).reshape(tuple(sizes.values()))
    return SimpleNamespace(devices=devices, axis_names=tuple(sizes))


def test_rings_have_two_links_and_lines_one():
    pod, part = read_topology("v5e:16x16"), read_topology("v5e:8x8")
    mesh = torus((16, 16), ([0], [1]), fsdp=16, tensor=16)
    assert path_along(("fsdp",), mesh, pod).bandwidth == 2 * 50e9
    assert path_along(("fsdp", "tensor"), mesh, pod).bandwidth == 4 * 50e9
    mesh = torus((8, 8), ([0], [1]), fsdp=8, tensor=8)
    assert path_along(("fsdp",), mesh, part).bandwidth == 50e9
    cubes = read_topology("v5p:4x4x8")
    mesh = torus((4, 4, 8), ([0, 1], [2]), fsdp=16, tensor=8)
    assert path_along(("fsdp",), mesh, cubes).bandwidth == 4 * 100e9
    assert path_along(("tensor",), mesh, cubes).bandwidth == 2 * 100e9


def test_devices_that_stand_apart_share_the_links_between_them():
    mesh = torus((16, 16), ([0], [1]), data=16, outer=4, tensor=4)
    pod = read_topology("v5e:16x16")
    assert path_along(("outer",), mesh, pod).bandwidth == 2 * 50e9 / 4  # every fourth chip of a ring
    assert path_along(("tensor",), mesh, pod).bandwidth == 50e9  # four neighbours, a line


def test_collectives_take_the_closed_forms_time():
    """8 GB over a ring of 16: gather S (N-1)/N, all-reduce twice that; all-to-all a quarter of S N/N per link pair."""
    pod = read_topology("v5e:16x16")
    path = path_along(("fsdp",), torus((16, 16), ([0], [1]), fsdp=16, tensor=16), pod)
    groups = frozenset([tuple(range(16))])
    of = lambda kind: Collective(kind, (("f32", (2 * 10**9,)),), groups, 0, 1, "")  # noqa: E731
    assert seconds(of("all-gather"), path) == pytest.approx(8e9 * 15 / 16 / 100e9)
    assert seconds(of("all-reduce"), path) == pytest.approx(2 * 8e9 * 15 / 16 / 100e9)
    assert seconds(of("all-to-all"), path) == pytest.approx(8e9 * 16 / 4 / 100e9)


@needs_libtpu
def test_only_the_data_axis_leaves_a_slice():
    slices = read_topology("v5e:2x2", slices=2)
    devices = compile_only_devices(slices)
    mesh = topology_mesh(MeshConfig(data=2, fsdp=4), slices, devices)
    assert dict(mesh.shape)["data"] == 2
    for row in mesh.devices.reshape(2, 4):
        assert len({device.slice_index for device in row}) == 1
    assert path_along(("data",), mesh, slices).between_slices
    assert path_along(("data",), mesh, slices).bandwidth == 25e9 / 8
    assert not path_along(("fsdp",), mesh, slices).between_slices
    with pytest.raises(ValueError, match="mesh.data=1 must be a multiple of mesh.slices=2"):
        topology_mesh(MeshConfig(data=1, fsdp=8), slices, devices)


@needs_libtpu
def test_a_mesh_that_does_not_suit_the_slice():
    cubes = read_topology("v5p:4x4x8")
    devices = compile_only_devices(cubes)
    with pytest.raises(ValueError, match="needs 64 devices, but there are 128"):
        topology_mesh(MeshConfig(data=1, fsdp=64), cubes, devices)
    with pytest.raises(ValueError, match=r"data=2 x fsdp=64 can't be laid along the torus v5p:4x4x8: .*\(4, 4, 8\)"):
        topology_mesh(MeshConfig(data=2, fsdp=64), cubes, devices)
