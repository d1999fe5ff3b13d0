"""Closed forms of communication against numbers by hand; tests/parallel compares them with compiled steps."""

from dataclasses import replace

import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.models.config import Block, MoEConfig
from jaxllm.models.declare import count
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.plan.communication import bytes_by_axis, sent_bytes, step_traffic
from jaxllm.training.experiment import Experiment, TrainingConfig

MODEL = ModelConfig(
    vocab_size=64,
    context_length=32,
    d_model=32,
    num_layers=3,
    attention=AttentionConfig(num_heads=4, num_kv_heads=2),
    mlp=MLPConfig(d_ff=64),
    compute_dtype="bfloat16",
)
VECTORS = 7 * 32  # two norms a layer and one at the end, which no axis shards
MATRICES = count(decoder_spec(MODEL)) - VECTORS


def sent(mesh, model=MODEL, **training):
    run = Experiment(model=model, mesh=mesh, training=TrainingConfig(batch_size=16, **training))
    return bytes_by_axis(step_traffic(run))


def test_rings():
    """A model of 70 billion float16 parameters on 8 devices sends 245 GB a step with replicas, 367.5 GB sharded."""
    size = 2 * 70e9
    assert sent_bytes("all-reduce", size, 8) == 245e9
    passes = 2 * sent_bytes("all-gather", size, 8) + sent_bytes("reduce-scatter", size, 8)
    assert passes == 367.5e9 == 1.5 * sent_bytes("all-reduce", size, 8)
    assert sent_bytes("collective-permute", 5, 8) == 5
    with pytest.raises(ValueError, match="no rule for the bytes of 'gossip'"):
        sent_bytes("gossip", 1, 2)


def test_replicas_and_zero():
    whole = 4 * (MATRICES + VECTORS)
    assert sent(MeshConfig(data=8)) == {("data",): 2 * whole * 7 / 8}
    three = 3 * 4 * MATRICES * 7 / 8 + 2 * 4 * VECTORS * 7 / 8
    assert sent(MeshConfig(data=1, fsdp=8)) == {("fsdp",): three}
    # Two passes with ZeRO-2, as many as an all-reduce has; ZeRO-1 adds the gather of the parameters to one.
    assert sent(MeshConfig(data=1, fsdp=8, zero=2)) == {("fsdp",): 2 * whole * 7 / 8}
    assert sent(MeshConfig(data=1, fsdp=8, zero=1)) == {("fsdp",): 2 * whole * 7 / 8 + 4 * MATRICES * 7 / 8}
    # Replicas of sharded gradients reduce a part of them each; microbatches do all of it again.
    both = sent(MeshConfig(data=2, fsdp=4), accumulation=2)
    assert both["data",] == 2 * 2 * (4 * MATRICES / 4) / 2
    assert sent(MeshConfig(data=1)) == {}


def test_activations():
    stream = 2 * 16 * 32 * 32  # bfloat16, [16, 32, 32]
    tensor = sent(MeshConfig(data=1, tensor=2))["tensor",]
    assert tensor == 3 * 2 * 2 * 2 * stream / 2  # layers, mixers, forward and backward, 2 S (N - 1) / N
    assert sent(MeshConfig(data=1, tensor=2, sequence_parallel=True))["tensor",] == tensor
    kv = 16 * 8 * 2 * 8  # keys of one of four devices: rows, tokens, heads, width
    ring = sent(MeshConfig(data=1, context=4))["context",]
    weights = 2 * 4 * (MATRICES + VECTORS) * 3 / 4
    assert ring == weights + 3 * (2 * 3 * 2 * kv * 2 + 4 * 2 * kv * 4)
    gathered = sent(MeshConfig(data=1, context=4, context_form="all_gather"))["context",]
    assert gathered == weights + 3 * 2 * (2 * kv * 4 * 2) * 3 / 4
    ulysses = sent(MeshConfig(data=1, context=4, context_form="ulysses"))["context",]
    assert ulysses == weights + 3 * 2 * (2 * 2 * kv + 2 * 2 * kv) * 2 * 3 / 4  # two kv heads become four


def test_experts():
    experts = replace(MODEL, pattern=(Block(channel=MoEConfig(num_experts=8, top_k=2, d_ff=16)),))
    rows = 4 * 32 * 2 * 32 * 2  # of one of four devices: batch, tokens, choices, width, bfloat16
    for mesh, blocks in [
        (MeshConfig(data=1, expert=4), 4),
        (MeshConfig(data=1, expert=4, exchange_room=1.5), 1.5),
        (MeshConfig(data=1, expert=4, exchange="ragged"), 1),
    ]:
        run = Experiment(model=experts, mesh=mesh, training=TrainingConfig(batch_size=16))
        (tokens,) = (t for t in step_traffic(run) if t.what == "tokens")
        assert (tokens.times, tokens.size) == (4 * 3, blocks * rows)
