"""Every kernel compiles for a TPU, forward and backward; and what that shows of memory, operations and communication.

Nothing here runs: the compiler for TPUs is a library that needs no TPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxllm.kernels.blockwise_attention import blockwise_attention
from jaxllm.kernels.flash_attention import flash_attention
from jaxllm.kernels.state_space_scan import state_space_scan
from jaxllm.kernels.visibility import Places
from jaxllm.models.channels.grouped import grouped_product
from jaxllm.objectives.cross_entropy import cross_entropy, reference_cross_entropy
from jaxllm.parallel.hlo import parse_module
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import make_layout, use_layout
from jaxllm.plan.compiled_work import kernels, silent_kernels

HEADS = ("batch", None, "act_heads", None)

# A program for a device that is not here can be kept, but not read back.
pytestmark = pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache entry")


def compiled(devices, function, arrays, axes=None, tensor=1, gradients=()):
    """The executable of the gradients of `function` (or of itself) for these devices, arrays laid out by `axes`."""
    layout = make_layout(MeshConfig(data=1, fsdp=-1, tensor=tensor), list(devices))
    named = axes or [()] * len(arrays)
    place = lambda array, axes: jax.ShapeDtypeStruct(*array, sharding=layout.sharding(*axes))  # noqa: E731
    total = lambda *args: sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(function(*args)))  # noqa: E731
    with use_layout(layout):
        placed = [place(array, axes) for array, axes in zip(arrays, named, strict=True)]
        return jax.jit(jax.grad(total, gradients) if gradients else function).lower(*placed).compile()


def kernels_in(program):
    return program.as_text().count('custom_call_target="tpu_custom_call"')


def attention_arrays(length, heads, kv_heads, width, value_width):
    shapes = ((heads, width), (kv_heads, width), (kv_heads, value_width))
    return [((2, length, *shape), jnp.bfloat16) for shape in shapes] + [((2, length), jnp.int32)]


def test_attention_with_everything_in_memory_linear_in_the_length(v5e):
    T = 8192
    arrays = [*attention_arrays(T, 2, 1, 128, 128), ((2,), jnp.float32)]
    attend = lambda q, k, v, ids, sinks: flash_attention(  # noqa: E731
        q, k, v, ids, window=700, softcap=30.0, sinks_H=sinks
    )
    program = compiled(v5e[:1], attend, arrays, gradients=(0, 1, 2, 4))
    assert kernels_in(program) == 3  # forward; gradients of queries; of keys and values
    module = parse_module(program.as_text())
    stated = sorted(kernel.flops for kernel in kernels(module) if kernel.flops)
    # Of 16 x 16 tiles of 512, those on the diagonal and two beside it: the window reaches 699 keys back.
    pairs = 2 * 2 * (16 + 15 + 14) * 512 * 512
    assert stated == [pairs * 2 * products * 128 for products in (2, 3, 4)]
    assert silent_kernels(module) == ()
    scores = 2 * 2 * T * T * 4
    assert program.memory_analysis().temp_size_in_bytes < scores / 20


def test_attention_with_latent_attentions_widths(v5e):
    arrays = attention_arrays(1024, 2, 2, 192, 128)
    program = compiled(v5e[:1], lambda *a: flash_attention(*a, causal=False), arrays, gradients=(0, 1, 2))
    assert kernels_in(program) == 3


def test_attention_on_a_mesh_needs_no_communication(v5e):
    axes = [HEADS, HEADS, HEADS, ("batch", None)]
    text = compiled(v5e, flash_attention, attention_arrays(1024, 4, 2, 64, 64), axes, tensor=2).as_text()
    assert "tpu_custom_call" in text
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_blockwise_attention(v5e):
    T = 4096
    arrays = [*attention_arrays(T, 2, 1, 128, 128), ((2, T), jnp.int32)]

    def attend(q, k, v, ids, positions):
        places = Places(positions, ids)
        return blockwise_attention(q, k, v, places, places)

    program = compiled(v5e[:1], attend, arrays, gradients=(0, 1, 2))
    assert program.memory_analysis().temp_size_in_bytes < 2 * 2 * T * T * 4 / 5


@pytest.mark.parametrize("kernel", ["megablox", "ragged"])
def test_experts(v5e, kernel):
    """Why megablox is the choice on TPUs: XLA has a kernel for the rows, but computes the gradient of the matrices as
    one convolution of E whole products. Should it stop to do so, `ragged` may be the better one."""
    E, N, D, F = 16, 3000, 1024, 1024
    arrays = [((N, D), jnp.bfloat16), ((E, D, F), jnp.bfloat16), ((E,), jnp.int32)]
    program = compiled(v5e[:1], partial(grouped_product, kernel=kernel), arrays, gradients=(0, 1))
    products = program.cost_analysis()["flops"] / (2 * N * D * F)
    assert products < 5 if kernel == "megablox" else products > E
    assert kernels_in(program) == 2  # megablox: both gradients; ragged: that of the rows, and what it needs to know


def test_the_state_space_scan(v5e):
    B, T, H, P, N = 2, 1024, 8, 64, 128
    states = [((B, T, 2, N), jnp.bfloat16)] * 2
    arrays = [((B, H, P, N), jnp.float32), ((B, T, H, P), jnp.bfloat16), ((B, T, H), jnp.float32), *states]
    run = lambda *args: state_space_scan(*args, None, 128)  # noqa: E731
    assert kernels_in(compiled(v5e[:1], run, arrays, gradients=(0, 1, 2, 3, 4))) == 2


@pytest.mark.long
def test_cross_entropy_never_holds_all_logits(v5e):
    B, T, D, V = 2, 4096, 128, 32000
    arrays = [((B, T, D), jnp.bfloat16), ((V, D), jnp.float32), ((B, T), jnp.int32), ((B, T), jnp.float32)]

    def temporary(loss):
        with_z_and_cap = lambda *args: loss(*args, z_loss=1e-4, softcap=30.0)[0]  # noqa: E731
        return compiled(v5e[:1], with_z_and_cap, arrays, gradients=(0, 1)).memory_analysis().temp_size_in_bytes

    logits = 4 * B * T * V
    assert temporary(cross_entropy) < logits / 5 and temporary(reference_cross_entropy) > logits / 2
