"""Gradients of whole models through a pipeline equal those of one device, whatever else the mesh splits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models import decoder_spec
from jaxllm.models.config import AttentionConfig, Block, MambaConfig, MoEConfig, MultiTokenConfig
from jaxllm.models.declare import initialize
from jaxllm.objectives.next_token import Scheduled, next_token
from jaxllm.parallel.collectives import find_collectives
from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.parallel.pipeline import PipelineConfig
from jaxllm.parallel.sharding import Layout, param_shardings, use_layout
from jaxllm.training.gradients import accumulated, laid_out, pipelined
from tests.training import tiny

MICROBATCHES = 4
MOE = MoEConfig(num_experts=4, top_k=2, d_ff=16, load_loss=0.1, z_loss=0.01)
CASES = {
    "dense with dropout and two targets, tied, x data": (
        replace(tiny.MODEL, num_layers=4, dropout=0.2, multi_token=MultiTokenConfig()),
        MeshConfig(data=2, pipeline=4),
        "1f1b",
    ),
    "mixtures behind a dense layer, untied, x fsdp": (
        replace(tiny.MODEL, num_layers=5, tie_embeddings=False, prologue=(Block(),), pattern=(Block(channel=MOE),)),
        MeshConfig(data=1, fsdp=2, pipeline=2),
        "interleaved",
    ),
    "hybrid with Mamba, x tensor": (
        replace(
            tiny.MODEL,
            num_layers=4,
            attention=AttentionConfig(num_heads=2),
            pattern=(Block(mixer=MambaConfig(d_state=4, chunk=8)), Block()),
        ),
        MeshConfig(data=1, tensor=2, pipeline=2),
        "zb-h1",
    ),
}
# Much of a test's time is the compiler's; these programs run for a moment.
QUICKLY = {"xla_backend_optimization_level": 0}


def batch():
    rows = tiny.batch(0, rows=8)
    rows["weights"][:3, 4:] = 0  # microbatches of different weight
    rows["segment_ids"][5, 8:] = 0
    return rows


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_one_device(case):
    model, mesh, schedule = CASES[case]
    objective = Scheduled(lambda step: next_token(model, z_loss=1e-3, multi_token_weight=0.1 * (step + 1)))
    spec = decoder_spec(model)
    params, rows, key, step = initialize(spec, jax.random.key(0)), batch(), jax.random.key(1), jnp.int32(2)
    key = key if model.dropout else None
    alone = jax.jit(accumulated(objective, MICROBATCHES), compiler_options=QUICKLY)
    loss, metrics, (grads, _) = alone((params, None), rows, key, step, None)

    sizes = mesh.data * mesh.fsdp * mesh.tensor * mesh.pipeline
    layout, config = Layout(make_mesh(mesh, jax.devices()[:sizes])), PipelineConfig(schedule=schedule)
    shardings = param_shardings(laid_out(spec, model, config, MICROBATCHES, layout), layout)
    gradients = pipelined(objective, MICROBATCHES, config, layout)

    def placed(*operands):
        with use_layout(layout):
            loss, metrics, (grads, _) = gradients((operands[0], None), *operands[1:], None)
            return loss, metrics, grads

    places = (shardings, layout.sharding("batch", "length"))
    placed = jax.jit(placed, in_shardings=(*places, None, None), out_shardings=(None, None, shardings))
    compiled = placed.lower(params, rows, key, step).compile(compiler_options=QUICKLY)
    given = jax.device_put((params, rows), places)
    found = jax.device_get(compiled(*given, key, step))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, found, (loss, metrics, grads))

    shape = layout.mesh.shape
    ranks = np.unravel_index(np.arange(layout.mesh.size), tuple(shape.values()))[list(shape).index("pipeline")]
    # Ranks that do different work must not wait for each other: within a tick nothing but messages crosses ranks.
    for collective in find_collectives(compiled.as_text()):
        if collective.kind == "collective-permute":
            assert collective.depth == 0 or "/ppermute" in collective.op_name and collective.depth == 1, collective
        elif collective.depth:
            assert all(len({ranks[device] for device in group}) == 1 for group in collective.groups), collective


def layout_of(**axes):
    mesh = MeshConfig(**{"data": 1, **axes})
    sizes = mesh.data * mesh.fsdp * mesh.tensor * mesh.pipeline
    return Layout(make_mesh(mesh, jax.devices()[:sizes]))


@pytest.mark.parametrize(
    ("layers", "ranks", "schedule", "microbatches", "message"),
    [
        (6, 4, "1f1b", 8, "4 ranks with 4 stages cannot share out 6 layers equally.*model.num_layers=4 or 8"),
        (4, 4, "zbv", 8, "4 ranks with 8 stages cannot share out 4 layers equally.*model.num_layers=8, or"),
        (8, 4, "dualpipe", 6, "pipeline.schedule=dualpipe with mesh.pipeline=4.*use 4 ranks and 8 microbatches"),
        (8, 4, "dualpipe", 9, "an even number of microbatches.*training.accumulation"),
        (8, 4, "dualpipe-v", 4, "2 microbatches a rank or more; got 4 for 4 ranks.*training.accumulation"),
        (8, 4, "interleaved", 6, "6 microbatches don't divide by 4 ranks.*training.accumulation"),
    ],
)
def test_what_does_not_fit_is_refused(layers, ranks, schedule, microbatches, message):
    model = replace(tiny.MODEL, num_layers=layers)
    with pytest.raises(ValueError, match=message):
        laid_out(decoder_spec(model), model, PipelineConfig(schedule=schedule), microbatches, layout_of(pipeline=ranks))


def test_a_pattern_is_never_cut():
    model = replace(tiny.MODEL, num_layers=7, pattern=(Block(mixer=MambaConfig()), Block()))
    message = "3 repeats of a pattern of 2 layers equally, beside 1 other layers.*model.num_layers=5 or 9"
    with pytest.raises(ValueError, match=message):
        laid_out(decoder_spec(model), model, PipelineConfig(), 4, layout_of(pipeline=2))


def test_other_objectives_and_odd_ranks_are_refused():
    with pytest.raises(ValueError, match="trains with the next-token objective only"):
        pipelined(lambda params, batch, key: (0.0, {}), 4, PipelineConfig(), layout_of(pipeline=2))
    with pytest.raises(ValueError, match="an even number of ranks.*use 4 ranks"):
        PipelineConfig(schedule="dualpipe").build(3, 8)
    with pytest.raises(ValueError, match="pipeline.chunks is the number of stages on each rank, at least 1; got 0"):
        PipelineConfig(chunks=0)


def test_without_a_pipeline_declarations_stay_as_they_are():
    spec = decoder_spec(tiny.MODEL)
    assert laid_out(spec, tiny.MODEL, PipelineConfig(), 1, layout_of()) is spec
