import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels import choice
from jaxllm.kernels.choice import AttentionCase, choose_attention, choose_experts, choose_scan
from jaxllm.kernels.config import KernelConfig
from jaxllm.kernels.documents import run_numbers, starts_and_lengths
from jaxllm.kernels.platform import interpreting, platform
from jaxllm.kernels.tuning import flash_tiles, product_tiles
from jaxllm.kernels.visibility import Reach
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import make_layout, use_layout

ORDINARY = {"dtype": "bfloat16", "key_width": 128, "value_width": 128}


@pytest.fixture
def on(monkeypatch):
    return lambda name: monkeypatch.setattr(choice, "platform", lambda: name)


@pytest.mark.parametrize(
    "here, more, kernel, reason",
    [
        ("cpu", {}, "plain", "on cpu"),
        ("tpu", {}, "flash", "on tpu"),
        ("tpu", {"softcap": 30.0, "sinks": True, "reach": Reach(window=64, chunk=128)}, "flash", "on tpu"),
        ("tpu", {"bias": True}, "plain", "flash can't: it takes no bias"),
        ("cuda", {}, "cudnn", "on cuda"),
        ("cuda", {"sinks": True}, "blockwise", "cudnn can't: it has no sinks"),
        ("cuda", {"dtype": "float32"}, "blockwise", "cudnn can't: it computes in bfloat16 or float16"),
        ("rocm", {}, "blockwise", "on rocm"),
    ],
)
def test_auto_goes_by_the_platform_and_says_why(on, here, more, kernel, reason):
    on(here)
    chosen = choose_attention("auto", AttentionCase(**(ORDINARY | more)))
    assert chosen.kernel == kernel and chosen.reason.startswith(reason)


@pytest.mark.parametrize(
    "here, kernel, more, reasons",
    [
        ("cpu", "flash", {}, ["it is for tpu, and this runs on cpu"]),
        ("rocm", "cudnn", {}, ["it is for cuda, and this runs on rocm"]),
        ("tpu", "flash", {"bias": True}, ["it takes no bias on the scores"]),
        ("tpu", "blockwise", {"bias": True}, ["it takes no bias on the scores"]),
        ("cuda", "cudnn", {"softcap": 30.0, "sinks": True}, ["it has no soft-cap (softcap=30.0)", "it has no sinks"]),
        ("cuda", "cudnn", {"key_width": 36, "value_width": 36}, ["at most 256, a multiple of 8, not 36"]),
        ("cuda", "cudnn", {"key_width": 192}, ["its values are as wide as its keys, not 128 beside 192"]),
    ],
)
def test_a_kernel_that_is_named_refuses_what_it_can_not_do(on, here, kernel, more, reasons):
    on(here)
    with pytest.raises(ValueError, match=f"kernels.attention={kernel} can't compute this layer") as error:
        choose_attention(kernel, AttentionCase(**(ORDINARY | more)))
    assert all(reason in str(error.value) for reason in reasons)


def test_rows_on_several_devices_are_for_blockwise_attention():
    with use_layout(make_layout(MeshConfig(data=1, context=2), jax.devices()[:2])):
        chosen = choose_attention("auto", AttentionCase(**ORDINARY))
        assert chosen.kernel == "blockwise" and chosen.reason == "each row lies on 2 devices, ring"
        with pytest.raises(ValueError, match=re.escape("each lies on 2 devices (mesh.context)")):
            choose_attention("plain", AttentionCase(**ORDINARY))


def test_flash_is_for_rows_on_several_devices_where_each_computes_on_whole_ones(on):
    on("tpu")
    devices = jax.devices()[:2]
    with use_layout(make_layout(MeshConfig(data=1, context=2, context_form="ulysses"), devices)):
        assert choose_attention("auto", AttentionCase(**ORDINARY)).kernel == "flash"
        assert choose_attention("auto", AttentionCase(**ORDINARY, bias=True)).kernel == "blockwise"
    with use_layout(make_layout(MeshConfig(data=1, context=2), devices)):
        assert choose_attention("auto", AttentionCase(**ORDINARY)).kernel == "blockwise"


def test_experts_and_scans(on):
    on("tpu")
    assert (choose_experts("auto").kernel, choose_scan("auto").kernel) == ("megablox", "plain")
    assert (choose_experts("ragged").kernel, choose_scan("pallas").kernel) == ("ragged", "pallas")
    on("cuda")
    assert choose_experts("auto").kernel == "ragged"
    with pytest.raises(ValueError, match="kernels.scan=pallas can't compute this layer: it is for tpu"):
        choose_scan("pallas")


def test_the_platform_is_that_of_the_mesh_or_of_the_interpreter():
    assert platform() == "cpu"
    with interpreting():
        assert platform() == "tpu"
    with pytest.raises(ValueError, match="kernels.documents is a count or 0, got -1"):
        KernelConfig(documents=-1)


def test_tiles_fit_the_shape():
    assert flash_tiles(4096, 128).queries == 512 and flash_tiles(640, 128).queries == 128
    assert flash_tiles(4096, 512).keys == 256
    tiles = product_tiles(300, 64, 1408)
    assert (tiles.rows, tiles.inner, tiles.outer) == (384, 128, 1024)


def test_documents_as_runs():
    ids = jnp.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    starts, lengths, fits = starts_and_lengths(ids, 3)
    np.testing.assert_array_equal(starts, [[0, 2, 5], [0, -1, -1]])
    np.testing.assert_array_equal(lengths, [[2, 3, 1], [6, -1, -1]])
    assert fits.all() and starts_and_lengths(ids, 2)[2].tolist() == [False, True]
    assert starts_and_lengths(ids, 9)[0].shape == (2, 9)

    positions = jnp.array([[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(run_numbers(positions, ids, 2), [[0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 2, 2]])
    np.testing.assert_array_equal(run_numbers(positions[1:], None, 2), [[0, 0, 1, 1, 2, 2]])
    assert run_numbers(positions, None, 0) is None
