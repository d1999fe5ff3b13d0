"""What tests need that compile for a TPU: its compiler, not a TPU."""

import pytest

from jaxllm.plan.topology import libtpu_installed

needs_libtpu = pytest.mark.skipif(
    not libtpu_installed(), reason="libtpu, the TPU's compiler, is not installed: make test installs it"
)
