"""Reading compiled programs: the CPU's own text, and the ways of writing that only the TPU's compiler has."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxllm.parallel.collectives import collectives_of, find_collectives
from jaxllm.parallel.hlo import Array, parse_module, read_arrays, trip_count, walk

# A loop of the TPU's compiler: no word of how often it turns, counted by twos from 0 up to 8; a gather that goes on
# behind the kernels of that loop; a scatter written as a reduction of which a slice is taken; a step around a ring.
# ruff: noqa: E501
TPU_TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (l: f32[], r: f32[]) -> f32[] {
  %l = f32[] parameter(0)
  %r = f32[] parameter(1)
  ROOT %sum = f32[] add(%l, %r)
}

%all-reduce-scatter (input: f32[64,32]) -> f32[16,32] {
  %input = f32[64,32]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[64,32]{1,0:T(8,128)} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[16,32]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.1, %zero, %zero), dynamic_slice_sizes={16,32}
}

%started (p: bf16[8,16]) -> (bf16[8,16], bf16[8,64], u32[]) {
  %p = bf16[8,16]{1,0} parameter(0)
  %all-gather.1 = bf16[8,64]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={1}, frontend_attributes={chain_id="7"}
  ROOT %custom-call.1 = (bf16[8,16]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%goes_on (q: bf16[8,16]) -> bf16[8,64] {
  %q = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,64]{1,0} all-gather(%q), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={1}, frontend_attributes={chain_id="7"}
}

%condition (s: (bf16[8,16], u32[])) -> pred[] {
  %s = (bf16[8,16]{1,0}, u32[]{:T(128)}) parameter(0)
  %stop = u32[]{:T(128)} constant(8)
  %counter = u32[]{:T(128)} get-tuple-element(%s), index=1
  ROOT %compare.1 = pred[]{:T(512)} compare(%counter, %stop), direction=LT
}

%body (t: (bf16[8,16], u32[])) -> (bf16[8,16], u32[]) {
  %t = (bf16[8,16]{1,0}, u32[]{:T(128)}) parameter(0)
  %x = bf16[8,16]{1,0} get-tuple-element(%t), index=0
  %i = u32[]{:T(128)} get-tuple-element(%t), index=1
  %copy.1 = u32[]{:T(128)S(6)} copy(%i)
  %two = u32[]{:T(128)} constant(2)
  %add.1 = u32[]{:T(128)} add(%copy.1, %two)
  %overlapped = bf16[8,64]{1,0} fusion(%x), kind=kOutput, calls=%goes_on
  %ring = bf16[8,16]{1,0} collective-permute(%x), channel_id=9, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  ROOT %tuple.1 = (bf16[8,16]{1,0}, u32[]{:T(128)}) tuple(%ring, %add.1)
}

ENTRY %main (a: bf16[8,16], g: f32[64,32]) -> f32[16,32] {
  %a = bf16[8,16]{1,0} parameter(0)
  %g = f32[64,32]{1,0} parameter(1)
  %zero.1 = u32[]{:T(128)} constant(0)
  %copy.2 = u32[]{:T(128)} copy(%zero.1)
  %start = (bf16[8,16]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}) fusion(%a), kind=kCustom, calls=%started
  %tuple.2 = (bf16[8,16]{1,0}, u32[]{:T(128)}) tuple(%a, %copy.2)
  %while.1 = (bf16[8,16]{1,0}, u32[]{:T(128)}) while(%tuple.2), condition=%condition, body=%body
  ROOT %fusion.1 = f32[16,32]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter
}
"""


@pytest.fixture(scope="module")
def tpu():
    return parse_module(TPU_TEXT)


def test_the_turns_of_a_loop_are_worked_out_from_its_counter(tpu):
    loop = tpu.computations["main"]["while.1"]
    assert trip_count(tpu, "main", loop) == 4
    assert {run.trips for run in walk(tpu) if run.computation == "body"} == {4}
    for change in (("constant(8)", "constant(7)"), ("add(%copy.1, %two)", "add(%two, %copy.1)")):
        again = parse_module(TPU_TEXT.replace(*change))
        assert trip_count(again, "main", again.computations["main"]["while.1"]) == 4


@pytest.mark.parametrize(
    "change",
    [("direction=LT", "direction=NE"), ("copy(%zero.1)", "add(%zero.1, %zero.1)"), ("add(%copy.1", "multiply(%copy.1")],
)
def test_a_loop_without_such_a_counter_has_no_number_of_turns(change):
    module = parse_module(TPU_TEXT.replace(*change))
    assert trip_count(module, "main", module.computations["main"]["while.1"]) is None
    assert {run.trips for run in walk(module) if run.computation == "body"} == {None}


def test_a_loop_that_the_cpu_compiler_counted():
    text = jax.jit(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c) @ c, None), x, length=5)[0]).lower(jnp.eye(8))
    module = parse_module(text.compile().as_text())
    assert [run.trips for run in walk(module) if run.instruction.opcode == "dot"] == [5]


def test_kernels_can_be_taken_as_one(tpu):
    names = {run.instruction.name for run in walk(tpu, into_fusions=False)}
    assert {"fusion.1", "overlapped", "ring"} <= names
    assert not names & {"all-reduce.1", "all-gather.2"}


def test_collectives_of_the_tpu_compiler(tpu):
    gather, ring, scatter = collectives_of(tpu)
    # One gather, though two kernels name it; it outlasts the loop, so it does not run at each turn.
    assert (gather.kind, gather.trips, gather.depth, gather.bytes) == ("all-gather", 1, 0, 8 * 64 * 2)
    assert (ring.kind, ring.trips, ring.bytes, ring.sent) == ("collective-permute", 4, 256, 256)
    assert (scatter.kind, scatter.bytes, scatter.sent) == ("reduce-scatter", 64 * 32 * 4, 64 * 32 * 4 * 3 / 4)


def test_axes_of_permutations():
    devices = np.array(jax.devices()[:4]).reshape(2, 2)
    mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    _, ring, scatter = find_collectives(TPU_TEXT)
    assert ring.over(mesh) == ("tensor",)
    assert scatter.over(mesh) == ("data", "tensor")
    crossing = re.sub(r"source_target_pairs=\S+", "source_target_pairs={{0,3},{3,0}}", TPU_TEXT)
    assert find_collectives(crossing)[1].over(mesh) == ("data", "tensor")


def test_bytes_that_must_travel():
    """Ring all-reduce 2 S (N-1)/N; gather and scatter half of that."""
    gather, _, scatter = find_collectives(TPU_TEXT)
    assert gather.sent == gather.bytes * 3 / 4
    whole = TPU_TEXT.replace("calls=%all-reduce-scatter", "calls=%reduced").replace(
        "%all-reduce-scatter (", "%reduced ("
    )
    reduced = find_collectives(whole)[2]
    assert (reduced.kind, reduced.sent) == ("all-reduce", 2 * scatter.sent)


def test_memory_spaces_and_odd_types():
    assert read_arrays("(f32[2,4]{1,0:T(8,128)S(1)}, s4[7], pred[])") == (
        Array("f32", (2, 4), 1),
        Array("s4", (7,)),
        Array("pred", ()),
    )
    assert [array.bytes for array in read_arrays("(s4[7], bf16[3], pred[2])")] == [4, 6, 2]


def test_a_kernel_whose_metadata_takes_several_lines():
    text = """HloModule m
ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %k = f32[2]{0} custom-call(%p), frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/kernel"}
  ROOT %r = f32[2]{0} negate(%k)
}
"""
    main = parse_module(text).computations["main"]
    assert list(main) == ["p", "k", "r"] and main["r"].is_root
    assert main["k"].rest.endswith('metadata={op_name="jit(f)/kernel"}')


def test_a_computation_that_another_core_runs():
    text = """HloModule m
%other (p: f32[2]) -> f32[2] {
  ROOT %n = f32[2]{0} negate(%p)
}, execution_thread="sparsecore"

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %c = f32[2]{0} call(%p), to_apply=%other
}
"""
    assert list(parse_module(text).computations) == ["other", "main"]
