"""Counting a program's products and bytes: closed forms on programs of the CPU's compiler and lines of the TPU's."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.parallel.hlo import parse_module
from jaxllm.plan.compiled_work import Kernel, kernels, silent_kernels
from jaxllm.plan.hardware import Hardware


def module_of(entry: str, *computations: str):
    parts = [c.strip("\n") for c in computations]
    return parse_module(
        "\n\n".join(["HloModule m, num_partitions=1", *parts, f"ENTRY %main () -> f32[] {{\n{entry}\n}}"])
    )


def test_a_loop_counts_as_often_as_it_turns():
    """Where the compiler's own analysis counts its body once."""
    T, D, F, turns = 8, 16, 32, 7

    def f(x, up_LDF, down_LFD):
        layer = lambda x, p: (jnp.tanh(x @ p[0]) @ p[1], None)  # noqa: E731
        return jax.lax.scan(layer, x, (up_LDF, down_LFD))[0].sum()

    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((T, D), (turns, D, F), (turns, F, D))]
    compiled = jax.jit(jax.grad(f, argnums=(1, 2))).lower(*shapes).compile()
    once = 2 * T * D * F * 2  # both products of a layer
    work = kernels(parse_module(compiled.as_text()))
    # Backward: two products for each one, but for the first layer's input, which needs no gradient: XLA keeps it.
    assert sum(k.runs * k.flops for k in work) == 3 * turns * once
    assert compiled.cost_analysis()["flops"] < 4 * once


# How the TPU's compiler writes products, with operands and what they come to.
PRODUCTS = {
    "plain": (
        "bf16[64,16]",
        "bf16[16,32]",
        "f32[64,32] convolution(%l, %r), dim_labels=bf_io->bf",
        2 * 64 * 32 * 16,
    ),
    # Heads as a dimension of the window, padded so far that each place meets the input once; two parts of what is
    # summed as the other.
    "BTD,DHK->BTHK": (
        "bf16[8192,2,256,1]",
        "bf16[2,256,8,128]",
        "f32[8192,8,128,1] convolution(%l, %r), window={size=8x2 pad=7_7x0_0 rhs_reversal=1x0}, "
        "dim_labels=b1f0_1i0o->b0f1",
        2 * 8192 * (8 * 128) * 512,
    ),
    # Groups of heads as a dimension of the window, with an input spread by as many: each group meets its own.
    "BTGRK,BSGK->BGTRS": (
        "bf16[8192,2,4,128]",
        "bf16[8192,2,128,1]",
        "f32[2,8192,4,8192] convolution(%l, %r), window={size=2x1 lhs_dilate=2x1}, dim_labels=b01f_o0i1->0b1f",
        2 * (2 * 4) * 8192 * 8192 * 128,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_written_as_convolutions(name):
    left, right, product, flops = PRODUCTS[name]
    module = module_of(f"  %l = {left} parameter(0)\n  %r = {right} parameter(1)\n  ROOT %c = {product}")
    assert sum(k.flops for k in kernels(module)) == flops


SLICED = """
%slicing (p0: f32[32,1024], p1: s32[]) -> f32[1024] {
  %p0 = f32[32,1024]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %slice = f32[1,1024]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,1024}
  ROOT %flat = f32[1024]{0} bitcast(%slice)
}
"""
UPDATED = """
%updating (q0: f32[32,1024], q1: f32[1,1024], q2: s32[]) -> f32[32,1024] {
  %q0 = f32[32,1024]{1,0} parameter(0)
  %q1 = f32[1,1024]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  ROOT %update = f32[32,1024]{1,0} dynamic-update-slice(%q0, %q1, %q2, %q2)
}
"""


def test_a_kernel_that_slices_moves_the_slice_only():
    entry = (
        "  %a = f32[32,1024]{1,0} parameter(0)\n  %i = s32[] parameter(1)\n"
        "  ROOT %k = f32[1024]{0} fusion(%a, %i), kind=kLoop, calls=%slicing"
    )
    assert [k.bytes for k in kernels(module_of(entry, SLICED))] == [2 * 4096 + 4]  # and its index


def test_an_update_in_place_moves_the_update_only():
    entry = (
        "  %a = f32[32,1024]{1,0} parameter(0)\n  %u = f32[1,1024]{1,0} parameter(1)\n  %i = s32[] parameter(2)\n"
        "  ROOT %k = f32[32,1024]{1,0} fusion(%a, %u, %i), kind=kLoop, calls=%updating"
    )
    assert [k.bytes for k in kernels(module_of(entry, UPDATED))] == [2 * 4096 + 4]


def test_what_stays_on_the_chip_is_no_traffic():
    entry = "  %a = f32[64,64]{1,0:S(1)} parameter(0)\n  ROOT %n = f32[64,64]{1,0} negate(%a)"
    assert [k.bytes for k in kernels(module_of(entry))] == [64 * 64 * 4]
    sliced = "  %a = f32[32,1024]{1,0:S(1)} parameter(0)\n  %i = s32[]{:S(6)} parameter(1)\n"
    sliced += "  ROOT %k = f32[1024]{0} fusion(%a, %i), kind=kLoop, calls=%slicing"
    assert [k.bytes for k in kernels(module_of(sliced, SLICED))] == [4096], "what is written"
    inside = entry.replace("f32[64,64]{1,0} negate", "f32[64,64]{1,0:S(1)} negate")
    assert kernels(module_of(inside)) == ()


def test_hand_written_kernels_state_their_work_or_are_named():
    call = (
        '  ROOT %k = f32[64,64]{1,0} custom-call(%a), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(step)/splash"}, backend_config={"custom_call_config":{'
    )
    entry = "  %a = f32[64,64]{1,0} parameter(0)\n" + call
    stated = module_of(entry + '"cost_estimate":{"flops":"5000","transcendentals":"0"}}}')
    assert [k.flops for k in kernels(stated)] == [5000]
    assert silent_kernels(stated) == ()
    assert silent_kernels(module_of(entry + "}}")) == ("splash",)


def test_a_loop_of_unknown_length_is_an_error():
    loop = """
%c (s: (f32[8,8], pred[])) -> pred[] {
  %s = (f32[8,8]{1,0}, pred[]) parameter(0)
  ROOT %go = pred[] get-tuple-element(%s), index=1
}

%b (t: (f32[8,8], pred[])) -> (f32[8,8], pred[]) {
  %t = (f32[8,8]{1,0}, pred[]) parameter(0)
  %x = f32[8,8]{1,0} get-tuple-element(%t), index=0
  %y = f32[8,8]{1,0} negate(%x)
  %p = pred[] get-tuple-element(%t), index=1
  ROOT %r = (f32[8,8]{1,0}, pred[]) tuple(%y, %p)
}
"""
    entry = (
        "  %a = (f32[8,8]{1,0}, pred[]) parameter(0)\n"
        "  ROOT %w = (f32[8,8]{1,0}, pred[]) while(%a), condition=%c, body=%b"
    )
    with pytest.raises(ValueError, match="work of y is unknown: so is the length of its loop"):
        kernels(module_of(entry, loop))


def test_a_kernel_takes_the_longer_of_both():
    device = Hardware("device", flops=100.0, memory=1.0, bandwidth=10.0)
    assert Kernel("k", "", 3, flops=400, bytes=10).seconds(device) == 12
    assert Kernel("k", "", 3, flops=400, bytes=80).seconds(device) == 24
