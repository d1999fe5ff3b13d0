"""Every kernel compiles for TPUs, forward and backward, on a mesh too; and how it compares with plain JAX there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxllm.kernels import megablox
from jaxllm.kernels.flash_attention import flash_attention
from jaxllm.kernels.state_space_scan import state_space_scan
from jaxllm.models.channels.grouped import grouped_product
from jaxllm.models.mixers.mamba2 import Tokens, state_space_dual
from jaxllm.parallel.sharding import Layout, use_layout

ATTENTION = {
    "packed, grouped": {"ids": True, "kv_heads": 2},
    "everything": {"ids": True, "window": 700, "softcap": 30.0, "sinks": True},
    "latent attention": {"width": 192, "value_width": 128},
    "not causal, width 64": {"ids": True, "causal": False, "width": 64},
}


def layout(devices, tensor=1):
    shape = (1, len(devices) // tensor, tensor)
    axes = (AxisType.Auto,) * 3
    return Layout(Mesh(np.array(devices).reshape(shape), ("data", "fsdp", "tensor"), axis_types=axes))


def compiled(devices, function, shapes, axes=None, tensor=1, gradients=()):
    """The executable of `function`'s gradients (or of itself) for these devices, arrays laid out by `axes`."""
    here = layout(devices, tensor)
    place = lambda shape, named: jax.ShapeDtypeStruct(*shape, sharding=here.sharding(*named))  # noqa: E731
    arrays = [place(shape, named) for shape, named in zip(shapes, axes or [()] * len(shapes), strict=True)]
    total = lambda *args: sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(function(*args)))  # noqa: E731
    with use_layout(here):
        return jax.jit(jax.grad(total, gradients) if gradients else function).lower(*arrays).compile()


def attention_shapes(case, length=1024):
    heads, width = 4, case.pop("width", 128)
    kv_heads, value_width = case.pop("kv_heads", heads), case.pop("value_width", width)
    shapes = [
        ((4, length, h, w), jnp.bfloat16) for h, w in ((heads, width), (kv_heads, width), (kv_heads, value_width))
    ]
    ids = case.pop("ids", False)
    sinks = case.pop("sinks", False)
    shapes += [((4, length), jnp.int32)] * ids + [((heads,), jnp.float32)] * sinks

    def attend(q, k, v, *more):
        more = list(more)
        ids_BT = more.pop(0) if ids else None
        return flash_attention(q, k, v, ids_BT, sinks_H=more.pop(0) if sinks else None, **case)

    heads_axes = [("batch", None, "act_heads", None)] * 3
    return attend, shapes, heads_axes + [("batch", None)] * ids + [("act_heads",)] * sinks


@pytest.mark.parametrize("case", ATTENTION.values(), ids=ATTENTION)
def test_attention(v5e, case):
    attend, shapes, axes = attention_shapes(dict(case))
    text = compiled(v5e[:1], attend, shapes, axes, gradients=(0, 1, 2)).as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3  # forward, dq, dkv


def test_attention_on_a_mesh_needs_no_communication(tpu):
    attend, shapes, axes = attention_shapes({"ids": True, "kv_heads": 2})
    text = compiled(tpu, attend, shapes, axes, tensor=2).as_text()
    assert "tpu_custom_call" in text
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_attention_takes_memory_linear_in_the_length(v5e):
    def temporary(length):
        attend, shapes, axes = attention_shapes({"ids": True}, length)
        return compiled(v5e[:1], attend, shapes, axes, gradients=(0, 1, 2)).memory_analysis().temp_size_in_bytes

    assert temporary(4096) < 4.5 * temporary(1024)


def test_experts(tpu):
    shapes = [((3000, 640), jnp.bfloat16), ((8, 640, 1408), jnp.bfloat16), ((8,), jnp.int32)]
    assert "tpu_custom_call" in compiled(tpu[:1], megablox.rows, shapes).as_text()
    shapes = [((3000, 640), jnp.bfloat16), ((3000, 1408), jnp.bfloat16), ((8,), jnp.int32)]
    assert "tpu_custom_call" in compiled(tpu[:1], megablox.weights, shapes).as_text()


def test_xla_itself_computes_the_gradient_of_experts_as_whole_products(v5e):
    """Why megablox is the choice on TPUs; when this fails, XLA has learnt it, and `ragged` may be the better one."""
    E, N, D = 16, 2048, 256
    shapes = [((N, D), jnp.bfloat16), ((E, D, D), jnp.bfloat16), ((E,), jnp.int32)]
    flops = compiled(v5e[:1], partial(grouped_product, kernel="ragged"), shapes, gradients=(1,)).cost_analysis()[
        "flops"
    ]
    assert flops > E * 2 * N * D * D


SCAN = {"state": (2, 8, 64, 128), "x": (2, 1024, 8, 64), "step": (2, 1024, 8), "write": (2, 1024, 1, 128)}


def scan_shapes():
    bf16 = lambda name: (SCAN[name], jnp.bfloat16)  # noqa: E731
    float32 = lambda name: (SCAN[name], jnp.float32)  # noqa: E731
    return [float32("state"), bf16("x"), float32("step"), bf16("write"), bf16("write"), ((2, 1024), jnp.bool_)]


def test_the_state_space_scan(tpu):
    run = lambda *args: state_space_scan(*args, 128)  # noqa: E731
    assert compiled(tpu[:1], run, scan_shapes(), gradients=(0, 1, 2, 3, 4)).as_text().count("tpu_custom_call") >= 2


def test_the_state_space_scan_keeps_less_than_plain_jax(v5e):
    def dual(kernel, state, x, step, write, read, starts):
        return state_space_dual(jnp.ones(8), state, Tokens(x, step, write, read, starts), 128, kernel)

    bytes_of = (
        lambda kernel: (  # noqa: E731
            compiled(v5e[:1], partial(dual, kernel), scan_shapes(), gradients=(0, 1, 2, 3, 4)).cost_analysis()
        )["bytes accessed"]
    )
    assert bytes_of("pallas") < bytes_of("plain")
