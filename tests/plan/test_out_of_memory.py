"""A compiler's refusal, as numbers and advice."""

from dataclasses import replace

import pytest

from jaxllm.models import ModelConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan.out_of_memory import Buffer, OutOfMemory, advice, out_of_memory, score_bytes
from jaxllm.training.experiment import Experiment, TrainingConfig

RUN = Experiment(
    model=ModelConfig(context_length=8192),
    training=TrainingConfig(batch_size=64, accumulation=2),
    mesh=MeshConfig(data=2, fsdp=4),
)
EARLY = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (128.00G) exceeds "
    "available HBM (95.74G)."
)
LATE = """\
RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 21.50G of 15.75G hbm. \
Exceeded hbm capacity by 5.75G.

Total hbm usage >= 22.00G:
    reserved        512.00M
    program          21.50G
    arguments            0B

  Largest program allocations in hbm:

  1. Size: 4.00G
     Operator: op_name="jit(placed)/jvp()/while/body/closed_call/mixer/BTGRK,BSGK->BGTRS/dot_general" stack_frame_id=210
     Shape: f32[1,8,4,8192,8192]{4,3,2,1,0:T(8,128)}
     Unpadded size: 4.00G
     XLA label: fusion.1265
     Allocation type: HLO temp
     ==========================

  2. Size: 512.00M
     Shape: bf16[32,8192,1024]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 512.00M
"""


def test_both_ways_the_compiler_says_it():
    early, late = out_of_memory(EARLY, RUN, 8), out_of_memory(LATE, RUN, 8)
    assert (early.needed, early.available) == (round(128.0 * 2**30), round(95.74 * 2**30))
    assert (late.needed, late.available) == (round(21.5 * 2**30), round(15.75 * 2**30))
    assert "it needs 21.50 GiB on each device, which has 15.75 GiB for programs; 5.75 GiB too much" in str(late)
    assert isinstance(late, ValueError)


def test_the_largest_buffers_are_named():
    found = out_of_memory(LATE, RUN, 8).buffers
    assert found == (
        Buffer(4 * 2**30, "f32[1,8,4,8192,8192]", "jvp()/mixer/BTGRK,BSGK->BGTRS/dot_general"),
        Buffer(512 * 2**20, "bf16[32,8192,1024]", ""),
    )
    assert "4.00 GiB  f32[1,8,4,8192,8192]  jvp()/mixer/BTGRK,BSGK->BGTRS" in str(out_of_memory(LATE, RUN, 8))


def test_another_refusal_is_left_as_it_is():
    assert out_of_memory("INTERNAL: something else", RUN, 8) is None


def test_advice_is_about_this_run():
    lines = "\n".join(advice(RUN, 8))
    assert "--training.remat=full keeps only the input of each layer; it is none" in lines
    assert "--training.accumulation=8: each device holds 4 rows" in lines
    assert "attention in blocks, which stores no scores" in lines
    assert score_bytes(RUN) == 4 * 12 * 8192**2
    assert "--mesh.fsdp instead of --mesh.data" in lines
    frugal = replace(
        RUN,
        model=ModelConfig(context_length=1024),
        training=TrainingConfig(batch_size=8, remat="full"),
        mesh=MeshConfig(data=1, fsdp=8, tensor=2),
    )
    lines = "\n".join(advice(frugal, 8))
    assert "remat" not in lines
    assert "accumulation" not in lines
    assert "scores" not in lines
    assert "--mesh.tensor=4" in lines


def test_it_is_raised_as_one_error():
    with pytest.raises(OutOfMemory, match="the step does not fit"):
        raise out_of_memory(EARLY, RUN, 8)
