"""The report of a compiled step, on a program of the CPU's compiler: what it adds up, says and prints."""

import argparse
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxllm.cli import plan_topology
from jaxllm.models import decoder_spec
from jaxllm.models.declare import count
from jaxllm.parallel.hlo import parse_module
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.plan import ahead
from jaxllm.plan.ahead import Compiled
from jaxllm.plan.ahead_report import cost, to_json, verdict
from jaxllm.plan.flops import train_flops_per_token
from jaxllm.plan.program_memory import program_memory
from jaxllm.plan.program_time import timing, traffic
from jaxllm.plan.topology import read_topology
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.job import pretraining_objective
from jaxllm.training.program import step_program
from tests.parallel.test_layouts import MODEL

RUN = Experiment(name="pods/tiny", model=MODEL, training=TrainingConfig(batch_size=16), mesh=MeshConfig(data=1, fsdp=4))
SLICE = read_topology("v5e:2x2")


@pytest.fixture(scope="module")
def compiled():
    layout = Layout(make_mesh(RUN.mesh, jax.devices()[:4]))
    program = step_program(RUN, decoder_spec(MODEL), pretraining_objective(MODEL, RUN.training), layout)
    executable = program.lower().compile()
    # CPU devices have no place in a torus; these have.
    places = np.array([SimpleNamespace(coords=(i // 2, i % 2)) for i in range(4)])
    mesh = SimpleNamespace(devices=places.reshape(layout.mesh.devices.shape), axis_names=layout.mesh.axis_names)
    module = parse_module(executable.as_text())
    found = traffic(module, mesh, SLICE)
    flops = train_flops_per_token(MODEL, MODEL.context_length) * 16 * MODEL.context_length / 4
    return Compiled(
        experiment=RUN,
        topology=SLICE,
        mesh=dict(layout.mesh.shape),
        batch_shards=layout.batch_shards,
        lower_seconds=1.0,
        compile_seconds=2.0,
        memory=program_memory(RUN, program, layout, executable.memory_analysis(), SLICE),
        model_flops=flops,
        xla_flops=executable.cost_analysis()["flops"],
        traffic=found,
        timing=timing(module, found, flops, SLICE),
        hlo="HloModule kept",
    )


def test_the_sum_of_the_kinds_is_what_the_compiler_analyzed(compiled):
    memory = compiled.memory
    assert memory.parameters == pytest.approx(4 * count(decoder_spec(MODEL)) / 4, rel=0.03)  # norms lie whole
    assert memory.optimizer == pytest.approx(2 * memory.parameters, abs=64)
    assert memory.padding == 0, "a CPU pads nothing"
    rest = memory.results + memory.temporaries + memory.code
    assert memory.total == memory.parameters + memory.optimizer + memory.average + memory.batch + rest


def test_collectives_come_together_by_kind_and_axis(compiled):
    """FSDP on a CPU: 7 matrices a layer gathered twice, the table once."""
    rows = {(row.kind, row.axes): row for row in compiled.traffic}
    assert rows["all-gather", ("fsdp",)].runs == 14 * MODEL.num_layers + 1
    for row in compiled.traffic:
        assert row.sent == pytest.approx(row.bytes * 3 / 4 * (2 if row.kind == "all-reduce" else 1))
        assert row.seconds == pytest.approx(row.sent / (2 * 50e9)), "two lines of two chips"


def test_the_json_holds_all_of_it(compiled):
    values = json.loads(json.dumps(to_json(compiled, dollars_per_hour=3.6)))
    assert values["memory"]["total"] == compiled.memory.total
    assert values["time"]["worst"] == pytest.approx(values["time"]["kernels"] + values["time"]["links"])
    tokens = values["tokens_per_second_per_chip"]["best"]
    assert tokens == pytest.approx(16 * MODEL.context_length / 4 / values["time"]["best"])
    # $3.60 a chip hour are 0.1 cents a chip second.
    assert values["cost"]["best_per_million_tokens"] == pytest.approx(1e6 / tokens * 1e-3)
    assert values["cost"]["source"] == "as you said"
    assert set(values["rules"]) == {"memory", "time", "flops"}


def test_the_list_price_is_dated(compiled):
    assert "2025" in cost(compiled, None).source


def test_the_page_says_everything(compiled, capsys, monkeypatch):
    monkeypatch.setattr(ahead, "compile_for", lambda experiment, topology: compiled)
    options = argparse.Namespace(topology="v5e-4", slices=1, search=0, hlo=None, json=False, dollars_per_hour=None)
    assert plan_topology.plan_topology(RUN, options) == 0
    page = capsys.readouterr().out
    assert "pods/tiny on v5e:2x2 (v5e-4): 4 chips, fsdp=4" in page
    assert "compiled in 2 s" in page
    for word in ("parameters", "optimizer", "temporaries", "gradients, by rule", "peak", "fits: 0% of what there is"):
        assert word in page
    for word in (
        "all-gather",
        "fsdp",
        "MFU",
        "tokens/s of a chip",
        "cost of a million tokens at $1.2",
        "cost_analysis",
    ):
        assert word in page
    assert "backward: " in page, "of the kernels that take longest"


def test_little_room_brings_advice(compiled):
    full = replace(compiled, memory=replace(compiled.memory, peak=round(0.97 * compiled.memory.limit)))
    assert verdict(full)[0].startswith("fits: 97%")
    assert "to make room: --training.remat=full" in verdict(full)[1]
    assert len(verdict(compiled)) == 1
