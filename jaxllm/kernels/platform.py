"""What the program being traced will run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
from jax.sharding import Mesh

from jaxllm.parallel.sharding import current_layout

_interpreting: ContextVar[bool] = ContextVar("interpreting", default=False)


def platform() -> str:
    """ "cpu", "cuda", "rocm" or "tpu": of the mesh in use, which may be one of devices that are not here; else of this
    process. It matters while tracing."""
    if _interpreting.get():
        return "tpu"
    layout = current_layout()
    device = jax.devices()[0]
    if layout is not None and isinstance(layout.mesh, Mesh):
        device = layout.mesh.devices.flat[0]
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version else "cuda"


def device_kind() -> str:
    """The kind of device, as JAX names it ("TPU v5 lite", "NVIDIA H100 80GB HBM3"): the key of the tuning table."""
    layout = current_layout()
    if layout is not None and isinstance(layout.mesh, Mesh):
        return layout.mesh.devices.flat[0].device_kind
    return jax.devices()[0].device_kind


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Within it the platform is taken for a TPU, and TPU kernels are run by Pallas's interpreter, slowly, anywhere."""
    token = _interpreting.set(True)
    try:
        yield
    finally:
        _interpreting.reset(token)


def is_interpreting() -> bool:
    return _interpreting.get()
