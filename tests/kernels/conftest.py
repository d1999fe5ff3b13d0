"""Devices that programs can be compiled for, but not run on."""

import importlib.util
import os

import pytest


@pytest.fixture(scope="session")
def v5e():
    """The four TPUs of a small slice."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("compiling for a TPU needs its compiler: install the libtpu that the extra jax[tpu] names")
    # Without these, libtpu asks the cloud's metadata server what machine this is, which takes long where there is none,
    # and refuses to be loaded by two processes at once.
    environment = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    for name, value in (environment | {"TPU_ACCELERATOR_TYPE": "v5e-4", "TPU_WORKER_HOSTNAMES": "localhost"}).items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    return topologies.get_topology_desc("v5e:2x2", platform="tpu").devices
