"""Whether a mesh and an experiment go together: what is split must come out even, and each axis needs what it splits.

One check before anything is compiled, which names axis, size and what to change, all misfits at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jaxllm.models.config import (
    AttentionConfig,
    CrossAttentionConfig,
    DifferentialAttentionConfig,
    GatedDeltaConfig,
    LatentAttentionConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    ModelConfig,
    MoEConfig,
    RWKVChannelConfig,
    RWKVConfig,
    SparseAttentionConfig,
)
from jaxllm.models.layers import layer_of
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import Experiment


def check_mesh(experiment: Experiment, sizes: Mapping[str, int]) -> None:
    """Raises ValueError where the experiment does not fit a mesh with axes of these sizes; `sizes` are `mesh.shape`."""
    misfits = [*_batch(experiment, sizes), *_length(experiment, sizes), *_model(experiment.model, sizes)]
    for block in dict.fromkeys(experiment.model.blocks()):
        misfits += _mixer(experiment, block.mixer, sizes)
        misfits += _channel(experiment, block.channel, sizes)
    if misfits:
        listed = "\n  ".join(dict.fromkeys(misfits))
        raise ValueError(f"the mesh and the experiment do not go together:\n  {listed}")


def _batch(experiment: Experiment, sizes: Mapping[str, int]) -> Iterator[str]:
    training = experiment.training
    rows, ways = training.batch_size // training.accumulation, sizes["data"] * sizes["fsdp"] * sizes["expert"]
    if rows % ways:
        yield (
            f"a microbatch of {rows} rows (training.batch_size / training.accumulation) cannot be split over the "
            f"{ways} devices of the data, fsdp and expert axes: make it a multiple of {ways}, or change the mesh"
        )


def _length(experiment: Experiment, sizes: Mapping[str, int]) -> Iterator[str]:
    mesh, length, context = experiment.mesh, experiment.model.context_length, sizes["context"]
    pieces = context * (2 if _is_zigzag(mesh) and context > 1 else 1)
    if length % pieces:
        each = "one for each device of" if pieces == context else "two for each device of"
        yield (
            f"model.context_length={length} does not fall into {pieces} pieces, {each} mesh.context={context}: make it "
            f"a multiple of {pieces}, or lower mesh.context"
        )
    elif mesh.sequence_parallel and length % (context * sizes["tensor"]):
        yield (
            f"model.context_length={length} does not fall into mesh.context={context} times mesh.tensor="
            f"{sizes['tensor']} pieces: set mesh.sequence_parallel=false, or change one of them"
        )


def _is_zigzag(mesh: MeshConfig) -> bool:
    return mesh.context_order == "zigzag" and mesh.context_form != "ulysses"


def _model(model: ModelConfig, sizes: Mapping[str, int]) -> Iterator[str]:
    yield from _divides(sizes, ("fsdp",), "model.d_model", model.d_model)
    if model.vocab_size:
        rounded = -(-model.vocab_size // sizes["tensor"]) * sizes["tensor"]
        yield from _divides(sizes, ("tensor",), "model.vocab_size", model.vocab_size, f"raise the size to {rounded}")
    if sizes["expert"] > 1 and not any(isinstance(block.channel, MoEConfig) for block in model.blocks()):
        yield (
            f"mesh.expert={sizes['expert']} splits the experts of mixtures of experts, and this model has none: set "
            "mesh.expert to 1, and mesh.fsdp or mesh.data higher"
        )


def _mixer(experiment: Experiment, mixer: object, sizes: Mapping[str, int]) -> Iterator[str]:
    model, mesh = experiment.model, experiment.mesh
    split = ("tensor", "context") if mixer != "none" and layer_of(mixer).along_text(mixer) else ("tensor",)
    match mixer:
        case AttentionConfig() | LatentAttentionConfig() | DifferentialAttentionConfig():
            yield from _heads(model, mesh, mixer, sizes)
        case CrossAttentionConfig():
            yield from _divides(sizes, ("tensor",), "cross_attention.num_heads", mixer.num_heads)
            if sizes["context"] > 1:
                yield "cross_attention looks at another sequence, which mesh.context does not split: set it to 1"
        case SparseAttentionConfig():
            yield from _divides(sizes, split, "sparse_attention.num_heads", mixer.num_heads)
            yield from _divides(sizes, split, "sparse_attention.num_kv_heads", mixer.kv_heads)
        case MambaConfig():
            yield from _divides(sizes, split, "mamba.expand * d_model", mixer.expand * model.d_model)
        case Mamba2Config():
            yield from _divides(sizes, split, "the heads of mamba2", mixer.num_heads(model.d_model))
        case GatedDeltaConfig():
            yield from _divides(sizes, split, "gated_delta.num_heads", mixer.num_heads)
            yield from _divides(sizes, split, "gated_delta.num_key_heads", mixer.num_key_heads)
        case RWKVConfig():
            yield from _divides(sizes, split, "the channels of rwkv", mixer.d_attention or model.d_model)


def _heads(model: ModelConfig, mesh: MeshConfig, mixer, sizes: Mapping[str, int]) -> Iterator[str]:
    yield from _divides(sizes, ("tensor",), f"{mixer.kind}.num_heads", mixer.num_heads)
    kv_heads = mixer.num_heads if isinstance(mixer, LatentAttentionConfig) else mixer.kv_heads
    if mesh.replicate_kv and kv_heads < sizes["tensor"] and not sizes["tensor"] % kv_heads:
        kv_heads = sizes["tensor"]
    elif kv_heads != mixer.num_heads:
        yield from _divides(
            sizes, ("tensor",), f"{mixer.kind}.num_kv_heads", kv_heads, "set mesh.replicate_kv=true for few heads"
        )
    if sizes["context"] == 1:
        return
    if model.positions == "alibi" and not getattr(mixer, "no_positions", False):
        yield f"ALiBi (model.positions=alibi) has no form for mesh.context={sizes['context']}: set mesh.context to 1"
    if mesh.context_form != "ulysses":
        return
    yield from _divides(sizes, ("tensor", "context"), f"{mixer.kind}.num_heads under ulysses", mixer.num_heads)
    here, context = kv_heads // sizes["tensor"], sizes["context"]
    if here and here % context and context % here:
        yield (
            f"mesh.context_form=ulysses needs the {here} key/value heads of a device to be a multiple or a divisor of "
            f"mesh.context={context}: change mesh.context, or set mesh.context_form=ring"
        )


def _channel(experiment: Experiment, channel: object, sizes: Mapping[str, int]) -> Iterator[str]:
    model = experiment.model
    split = ("tensor", "context") if channel != "none" and layer_of(channel).along_text(channel) else ("tensor",)
    match channel:
        case MLPConfig():
            yield from _divides(sizes, split, "mlp.d_ff", channel.d_ff)
        case RWKVChannelConfig():
            yield from _divides(sizes, split, "the channels of rwkv_channel", channel.d_ff or 4 * model.d_model)
        case MoEConfig():
            yield from _divides(sizes, ("expert",), "moe.num_experts", channel.num_experts)
            yield from _divides(sizes, split, "moe.d_ff", channel.d_ff)
            if channel.shared_d_ff:
                yield from _divides(sizes, split, "moe.shared_d_ff", channel.shared_d_ff)


def _divides(
    sizes: Mapping[str, int], axes: tuple[str, ...], name: str, size: int, advice: str = "change the model"
) -> Iterator[str]:
    """A complaint where the axes together do not divide a size."""
    ways = 1
    for axis in axes:
        ways *= sizes[axis]
    if size % ways:
        mesh = " times ".join(f"mesh.{axis}={sizes[axis]}" for axis in axes)
        possible = [n for n in range(1, min(size, 64) + 1) if size % n == 0]
        yield f"{mesh} does not divide {name}={size}: it must be one of {possible}, or {advice}"
