"""What every test runs under. All of it is environment, so that processes which a test starts run under it too."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

from tests.comparisons import compares

assert "jax" not in sys.modules, "jax reads its environment when it is imported, which must not come before this file"

# A mesh of eight devices is what the sharding tests are about; on a machine with an accelerator, ask for it by name.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = ["--xla_force_host_platform_device_count=8"]
# Most of the suite's time is XLA compiling programs that then run once or twice. Without LLVM's expensive passes and
# the fusion emitters that takes a third of the time. XLA stops at a flag it does not know: only for versions that do.
if version("jaxlib").startswith(("0.10.", "0.11.")):
    flags += [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in flags if flag.split("=")[0] not in given)]).strip()
# A collective blocks its thread until all devices are there. XLA has as many threads as cores unless this says more,
# and with two of them, devices that wait in different collectives keep each other waiting for ever.
os.environ.setdefault("NPROC", "16")

# Most of the suite's time goes into compiling the same small programs, in each of its processes and at each run again.
# The folder is this checkout's own: a cache shared between machines could hold code for another processor.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Programs are compiled for TPUs too, where `make test` has put their compiler: beside the environment's own packages,
# since with it among them every start of JAX looks for a TPU.
compiler = Path(sys.prefix) / "topologies" / "libtpu" / "libtpu.so"
if compiler.is_file():
    os.environ.setdefault("TPU_LIBRARY_PATH", str(compiler))

# Nothing may reach for a display or a download.
os.environ["MPLBACKEND"] = "agg"
os.environ["HF_HUB_OFFLINE"] = "1"

# The first example of a test compiles, so a time limit per example would measure that.
settings.register_profile("jaxllm", deadline=None, print_blob=True)
settings.load_profile("jaxllm")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_dropped():
    """What a module compiled is in the cache on disk; in memory a whole run of the suite would hold gigabytes of it."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def pytest_addoption(parser):
    parser.addoption("--comparisons", action="store_true", help="only tests that compare with other implementations")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than its share of the suite's time; JAXLLM_LONG=1 asks for it")


def pytest_collection_modifyitems(config, items):
    if "JAXLLM_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: JAXLLM_LONG=1 asks for it"))
    if config.getoption("comparisons"):
        chosen = {True: [], False: []}
        for item in items:
            chosen[compares(item)].append(item)
        items[:] = chosen[True]
        config.hook.pytest_deselected(items=chosen[False])
