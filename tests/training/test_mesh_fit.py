"""A mesh that does not divide what it splits is refused before anything is compiled, with axis, size and a way out."""

from dataclasses import replace

import pytest

from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.models.config import (
    Block,
    CrossAttentionConfig,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MoEConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import Experiment, TrainingConfig
from jaxllm.training.mesh_fit import check_mesh

MODEL = ModelConfig(
    vocab_size=96, context_length=48, d_model=48, num_layers=2, attention=AttentionConfig(num_heads=6, num_kv_heads=2),
    mlp=MLPConfig(d_ff=96),
)  # fmt: skip


def check(model=MODEL, rows=48, **mesh):
    config = MeshConfig(**{"data": 1, **mesh})
    check_mesh(Experiment(model=model, mesh=config, training=TrainingConfig(batch_size=rows)), config.sizes())


def with_layer(**block):
    return replace(MODEL, pattern=(Block(**block),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tensor": 4}, r"mesh.tensor=4 does not divide attention.num_heads=6: it must be one of \[1, 2, 3, 6\]"),
        (
            {"tensor": 6},
            r"tensor=6 does not divide attention.num_kv_heads=2: .* one of \[1, 2\], or set mesh.replicate_kv=true",
        ),
        ({"fsdp": 5}, "mesh.fsdp=5 does not divide model.d_model=48"),
        ({"tensor": 5}, "mesh.tensor=5 does not divide model.vocab_size=96: .* or raise the size to 100"),
        (
            {"rows": 6, "data": 4},
            "a microbatch of 6 rows .* cannot be split over the 4 devices of the data, fsdp and exp",
        ),
        ({"context": 5}, "model.context_length=48 does not fall into 10 pieces, two for each device of mesh.context=5"),
        ({"context": 5, "context_order": "text"}, "does not fall into 5 pieces, one for each device of mesh.context=5"),
        (
            {"context": 4, "tensor": 24, "sequence_parallel": True},
            "model.context_length=48 does not fall into mesh.context=4 times mesh.tensor=24 pieces",
        ),
        (
            {"context": 4, "context_form": "ulysses"},
            "mesh.tensor=1 times mesh.context=4 does not divide attention.num_he",
        ),
        (
            {"context": 3, "context_form": "ulysses"},
            "needs the 2 key/value heads of a device to be a multiple or a div",
        ),
        ({"expert": 2}, "mesh.expert=2 splits the experts of mixtures of experts, and this model has none"),
        (
            {"model": with_layer(channel=MoEConfig(num_experts=6, d_ff=32)), "expert": 4},
            r"mesh.expert=4 does not divide moe.num_experts=6: it must be one of \[1, 2, 3, 6\]",
        ),
        ({"model": replace(MODEL, positions="alibi"), "context": 2}, "ALiBi .* has no form for mesh.context=2"),
        (
            {"model": with_layer(mixer=MambaConfig(expand=1)), "context": 12, "tensor": 3},
            "does not divide mamba.expand",
        ),
        ({"model": with_layer(mixer=Mamba2Config(head_dim=16)), "context": 4}, "does not divide the heads of mamba2=6"),
        ({"model": with_layer(mixer=GatedDeltaConfig()), "tensor": 3}, "does not divide gated_delta.num_key_heads=16"),
        (
            {"model": with_layer(mixer=RWKVConfig(d_attention=40)), "tensor": 3},
            "does not divide the channels of rwkv=40",
        ),
        ({"model": with_layer(mixer=LatentAttentionConfig(num_heads=4)), "tensor": 3}, "latent_attention.num_heads=4"),
        (
            {"model": with_layer(mixer=CrossAttentionConfig()), "context": 2},
            "cross_attention looks at another sequence",
        ),
        (
            {"model": with_layer(mixer=SparseAttentionConfig(num_heads=4, num_kv_heads=2)), "context": 4},
            "mesh.tensor=1 times mesh.context=4 does not divide sparse_attention.num_kv_heads=2",
        ),
    ],
)
def test_what_does_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=f"(?s)the mesh and the experiment do not go together:.*{message}"):
        check(**arguments)


def test_all_misfits_are_named_at_once():
    with pytest.raises(ValueError, match="(?s)microbatch of 5.*d_model=48.*num_heads=6.*d_ff=96"):
        check(rows=5, fsdp=7, tensor=5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"data": 2, "fsdp": 2, "tensor": 2, "context": 3},
        {"tensor": 6, "replicate_kv": True},
        {
            "tensor": 2,
            "context": 2,
            "context_form": "ulysses",
            "model": replace(MODEL, attention=AttentionConfig(num_heads=4)),
        },
        {
            "expert": 4,
            "context": 2,
            "model": with_layer(channel=MoEConfig(num_experts=8, d_ff=32, dispatch="capacity")),
        },
    ],
)
def test_what_goes_together(arguments):
    check(**arguments)
