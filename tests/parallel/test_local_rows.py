"""Which rows of a batch a process reads, on meshes that spread a part of the batch over hosts or a host over parts."""

import jax
import numpy as np
import pytest

from jaxllm.parallel.local_rows import Readers, find_readers, place_rows
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout


def sharding(*axes, **mesh):
    return Layout(make_mesh(MeshConfig(**mesh))).sharding(*(axes or ("batch", "length")))


def readers(processes, rows=16, **mesh):
    """As if the eight devices were those of `processes` hosts, in order."""
    of = lambda device: device.id * processes // 8  # noqa: E731
    return [find_readers(sharding(**mesh), rows, process=p, process_of=of) for p in range(processes)]


def test_each_host_reads_its_own_rows_where_the_batch_is_split_over_all_devices():
    assert readers(4, data=8) == [Readers(p, 4, tuple(range(4 * p, 4 * p + 4))) for p in range(4)]
    assert readers(2, data=2, fsdp=4) == [Readers(p, 2, tuple(range(8 * p, 8 * p + 8))) for p in range(2)]
    assert readers(1, data=8) == [Readers(0, 1, tuple(range(16)))]


def test_hosts_that_share_a_part_of_the_batch_read_the_same_rows():
    expected = [Readers(p // 2, 2, tuple(range(8 * (p // 2), 8 * (p // 2) + 8))) for p in range(4)]
    assert readers(4, data=2, tensor=4) == expected
    assert readers(4, data=1, tensor=8) == [Readers(0, 1, tuple(range(16)))] * 4


def test_a_host_whose_devices_lie_apart_reads_rows_that_lie_apart():
    mesh = sharding(data=8)
    for process in (0, 1):
        found = find_readers(mesh, 16, process=process, process_of=lambda device: device.id % 2)
        rows = [row for row in range(16) if row // 2 % 2 == process]
        assert found == Readers(process, 2, tuple(rows))


def test_parts_that_overlap_are_refused():
    uneven = [0, 0, 0, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"not shared evenly .*process 0: 0-5; process 1: 6-15.*change the mesh"):
        find_readers(sharding(data=8), 16, process=0, process_of=lambda device: uneven[device.id])
    with pytest.raises(ValueError, match="not shared evenly"):
        find_readers(sharding(data=4, tensor=2), 16, process=0, process_of=lambda device: (device.id + 1) // 2 % 4)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "tensor": 8}])
def test_the_global_batch_is_the_rows_in_order(mesh):
    batch = {"tokens": np.arange(64).reshape(16, 4), "weights": np.ones((16, 4), np.float32)}
    lies = sharding(**mesh)
    placed = place_rows(batch, lies, 16, find_readers(lies, 16))
    for name in batch:
        np.testing.assert_array_equal(placed[name], batch[name])
        assert placed[name].sharding == lies


def test_columns_that_are_split_over_devices_are_cut_too():
    lies = jax.sharding.NamedSharding(
        make_mesh(MeshConfig(data=2, tensor=4)), jax.sharding.PartitionSpec("data", "tensor")
    )
    placed = place_rows({"tokens": np.arange(64).reshape(8, 8)}, lies, 8, find_readers(lies, 8))
    np.testing.assert_array_equal(placed["tokens"], np.arange(64).reshape(8, 8))
