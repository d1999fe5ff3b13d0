"""The training step compiled for TPUs that are not here: closed forms of what the program holds, sends and computes."""

import json
from dataclasses import replace

import pytest

from jaxllm.cli.main import main
from jaxllm.config import to_json
from jaxllm.kernels.config import KernelConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.declare import count
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan.ahead import compile_for
from jaxllm.plan.ahead_report import cost
from jaxllm.plan.flops import forward_flops
from jaxllm.plan.out_of_memory import OutOfMemory
from jaxllm.plan.topology import read_topology
from jaxllm.training.experiment import Experiment, TrainingConfig
from tests.plan.tpu import needs_libtpu

pytestmark = needs_libtpu

# Every axis is a multiple of the TPU's tiles, so that the compiler pads nothing.
MODEL = ModelConfig(
    vocab_size=512,
    context_length=128,
    d_model=512,
    num_layers=3,
    attention=AttentionConfig(num_heads=4, num_kv_heads=4),
    mlp=MLPConfig(d_ff=1024),
    tie_embeddings=False,
    compute_dtype="bfloat16",
    kernels=KernelConfig(attention="plain"),  # whose products can be counted
)
RUN = Experiment(
    name="tiny",
    model=MODEL,
    training=TrainingConfig(batch_size=8),
    mesh=MeshConfig(data=1, fsdp=4),
)
PARAMETERS = count(decoder_spec(MODEL))
TABLE = MODEL.vocab_size * MODEL.d_model
NORMS = (2 * MODEL.num_layers + 1) * MODEL.d_model
MATRICES = PARAMETERS - 2 * TABLE - NORMS
DEVICES = 4


@pytest.fixture(scope="module")
def compiled():
    return compile_for(RUN, read_topology("v5e:2x2"))


def test_parameters_and_adam_take_twelve_bytes_each_divided(compiled):
    memory = compiled.memory
    shared = (PARAMETERS - NORMS) // DEVICES + NORMS  # norms lie whole on every device
    assert memory.parameters == 4 * shared
    assert memory.optimizer == pytest.approx(8 * shared, abs=64)  # and Adam's counters
    assert memory.batch == pytest.approx(5 * 4 * 8 * 128 // DEVICES, abs=64)
    assert 0 <= memory.padding < 0.1 * (memory.parameters + memory.optimizer)
    assert memory.parameters + memory.optimizer < memory.peak < memory.limit


def test_fsdp_gathers_twice_and_scatters_once(compiled):
    """FSDP's three passes: matrices before the forward and the backward pass, here in bfloat16, and their gradients
    after it, in float32. Each of the two tables is gathered once; the head's gradient is float32, the embedding's the
    stream's bfloat16."""
    gathered = sum(row.sent for row in compiled.traffic if row.kind == "all-gather")
    assert gathered == pytest.approx(2 * (2 * MATRICES + 2 * TABLE) * (DEVICES - 1) / DEVICES, rel=0.04)
    scattered = sum(row.bytes for row in compiled.traffic if row.kind in ("reduce-scatter", "all-reduce"))
    assert scattered == pytest.approx(4 * MATRICES + (4 + 2) * TABLE, rel=0.04)
    assert any(row.kind == "reduce-scatter" for row in compiled.traffic), "a real one, unlike on a CPU"
    assert {row.axes for row in compiled.traffic} == {("fsdp",)}


def test_the_program_computes_what_the_rule_says_and_why_not(compiled):
    """Whole scores, where the rule counts the causal half, and nothing else. The compiler's own analysis counts each
    loop's body once."""
    tokens = RUN.training.batch_size * MODEL.context_length / DEVICES
    forward = forward_flops(MODEL, MODEL.context_length)
    assert compiled.timing.flops == pytest.approx(
        3 * (forward["weights"] + 2 * forward["attention"]) * tokens, rel=0.03
    )
    assert compiled.model_flops == pytest.approx(3 * sum(forward.values()) * tokens)
    assert compiled.xla_flops < 0.6 * compiled.timing.flops


def test_times_and_cost(compiled):
    timing = compiled.timing
    assert timing.kernels >= max(timing.compute, timing.memory)
    assert timing.best == max(timing.kernels, timing.links)
    assert timing.worst == timing.kernels + timing.links
    assert 0 < timing.worst_mfu <= timing.best_mfu < 1
    price = cost(compiled, 1.0)
    assert price.best_per_million_tokens == pytest.approx(4 / 3600 * timing.best / (8 * 128) * 1e6)
    assert cost(compiled, None).dollars_per_chip_hour == 1.20


def test_tensor_axis_on_another_slice_through_the_command_line(tmp_path, capsys):
    """The loop's depth does not matter; the JSON says everything; the program can be kept."""
    file = tmp_path / "config.json"
    file.write_text(to_json(replace(RUN, mesh=MeshConfig(data=1, fsdp=2, tensor=2))))
    program = tmp_path / "step.hlo"
    arguments = ["plan", str(file), "--topology", "v5p-8", "--json", "--hlo", str(program), "--model.num_layers=5"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["topology"] == {
        "name": "v5p:2x2x1",
        "accelerator": "v5p-8",
        "slices": 1,
        "chips": 4,
        "devices": 4,
    }
    assert found["mesh"]["tensor"] == 2
    assert {tuple(row["axes"]) for row in found["collectives"]} >= {("fsdp",), ("tensor",)}
    assert found["fits"]
    assert found["compile_seconds"] > 0
    assert program.read_text().startswith("HloModule")
    assert found["rules"]["time"]["MFU"]


def test_what_does_not_fit_is_an_error_with_numbers():
    """16 GiB of scores a layer on a device: the compiler gives up before it has placed anything."""
    much = replace(
        RUN,
        model=replace(MODEL, context_length=16_384, num_layers=24),
        training=TrainingConfig(batch_size=16),
    )
    with pytest.raises(OutOfMemory, match=r"on each device, which has 15.75 GiB for programs") as caught:
        compile_for(much, read_topology("v5e:2x2"))
    assert caught.value.needed > caught.value.available
    assert "--training.remat=full" in str(caught.value)


def test_a_batch_that_the_mesh_does_not_divide():
    odd = replace(RUN, training=TrainingConfig(batch_size=6))
    with pytest.raises(ValueError, match="a microbatch of 6 rows .* cannot be split over the 4 devices"):
        compile_for(odd, read_topology("v5e:2x2"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "v5e:5x5"], "there is no slice 'v5e:5x5'"),
        (["--topology", "v5e:4x4"], "needs 4 devices, but there are 16"),
        (["--search"], "need a slice to compile for: --topology"),
        (["--topology", "v5e:2x2", "--slices", "0"], "--slices must be at least 1"),
    ],
)
def test_requests_that_make_no_sense(tmp_path, capsys, arguments, message):
    file = tmp_path / "config.json"
    file.write_text(to_json(RUN))
    assert main(["plan", str(file), *arguments]) == 2
    assert message in capsys.readouterr().err
