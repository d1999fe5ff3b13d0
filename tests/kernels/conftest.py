"""Devices that programs can be compiled for, but not run on."""

import importlib.util
import os

import pytest


def _devices(name):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("compiling for a TPU needs its compiler: pip install the libtpu that jax[tpu] names")
    # Without these, libtpu asks the cloud's metadata server what machine this is, which takes long where there is none,
    # and refuses to be loaded by two processes at once.
    for variable, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    return topologies.get_topology_desc(name, platform="tpu").devices


@pytest.fixture(scope="session", params=["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def tpu(request):
    """The four devices of a small slice of each generation."""
    return _devices(request.param)


@pytest.fixture(scope="session")
def v5e():
    return _devices("v5e:2x2")
