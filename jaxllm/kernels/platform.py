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
    device = _device()
    if device.platform != "gpu":
        return device.platform
    client = getattr(device, "client", None) or jax.devices()[0].client
    return "rocm" if "rocm" in client.platform_version else "cuda"


def device_kind() -> str:
    """The kind of device, as JAX names it ("TPU v5 lite", "NVIDIA H100 80GB HBM3"): the key of the tuning table."""
    return _device().device_kind


def _device():
    """The first of the mesh in use; inside a pipeline's stages, where the mesh is an abstract one, what stands for it
    there; else this process's first."""
    layout = current_layout()
    mesh = None if layout is None else layout.mesh
    found = mesh.devices.flat[0] if isinstance(mesh, Mesh) else getattr(mesh, "abstract_device", None)
    return found or jax.devices()[0]


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
