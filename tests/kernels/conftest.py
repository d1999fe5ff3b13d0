"""Devices that programs can be compiled for, but not run on."""

import pytest

from jaxllm.plan.topology import compile_only_devices, libtpu_installed, read_topology


@pytest.fixture(scope="session")
def v5e():
    """The four TPUs of a small slice."""
    if not libtpu_installed():
        pytest.skip("libtpu, the TPU's compiler, is not installed: make test installs it")
    return compile_only_devices(read_topology("v5e:2x2"))
