"""What a training step sends between devices, by the mesh axis that sends it, in closed form.

Rules: collectives run on rings, where an all-reduce of S bytes over N devices makes each send 2 S (N - 1) / N and a
gather, a scatter or an all-to-all half of it (Patarasuk and Yuan 2009). Parameters and gradients are float32,
activations of the compute type. Without rematerialization: where the forward pass is run again, so are its gathers.
Scalars, counts, positions and the norms' gradients within the tensor axis are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import jax

from jaxllm.models.config import AttentionConfig, LatentAttentionConfig, ModelConfig, MoEConfig
from jaxllm.models.decoder import decoder_spec
from jaxllm.models.layers import layer_of
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import axis_names, layout_of
from jaxllm.plan.memory import abstract_mesh
from jaxllm.training.experiment import Experiment

FLOAT32 = 4


@dataclass(frozen=True)
class Traffic:
    """One kind of collective in a training step."""

    axes: tuple[str, ...]
    """Mesh axes it runs along."""
    what: str
    operation: str
    """As HLO names it."""
    times: int
    size: float
    """Bytes it is about, each time: of the whole array, of an all-to-all or permutation those of one device."""
    ways: int
    """Devices that take part."""

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step."""
        return self.times * sent_bytes(self.operation, self.size, self.ways)


def sent_bytes(operation: str, size: float, ways: int) -> float:
    """Bytes each of `ways` devices sends in one collective over `size` bytes. Raises ValueError for an unknown one."""
    match operation:
        case "all-reduce":
            return 2 * size * (ways - 1) / ways
        case "all-gather" | "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
            return size * (ways - 1) / ways
        case "collective-permute":
            return size
    raise ValueError(f"no rule for the bytes of {operation!r}: expected a kind of collective as HLO names it")


def step_traffic(experiment: Experiment, devices: int | None = None) -> tuple[Traffic, ...]:
    """Every kind of collective of one training step, of which some may run over one device and send nothing.

    Raises ValueError when the mesh does not fit `devices` (default: what its fixed axes need) or the parameters.
    """
    sizes = abstract_mesh(experiment.mesh, devices).shape
    times: Counter[Traffic] = Counter()
    for traffic in (*_parameters(experiment, sizes), *_layers(experiment, sizes)):
        times[replace(traffic, times=1)] += traffic.times if traffic.ways > 1 else 0
    return tuple(replace(traffic, times=n) for traffic, n in times.items() if n)


def bytes_by_axis(traffic: tuple[Traffic, ...]) -> dict[tuple[str, ...], float]:
    """Bytes that each device sends in a step, by the axes they go along."""
    total: dict[tuple[str, ...], float] = {}
    for entry in traffic:
        total[entry.axes] = total.get(entry.axes, 0.0) + entry.sent
    return total


def _parameters(experiment: Experiment, sizes: Mapping[str, int]) -> Iterator[Traffic]:
    """Gradients are summed over the axes that split the tokens. What is sharded over `fsdp` goes over it three times:
    parameters gathered forward and backward, gradients reduced and scattered (Rajbhandari et al. 2020, section 7)."""
    mesh, steps = experiment.mesh, experiment.training.accumulation
    layout = layout_of(mesh, abstract_mesh(MeshConfig(**sizes)))
    reduced: dict[tuple[str, ...], float] = {}
    sharded = 0.0
    for param in jax.tree.leaves(decoder_spec(experiment.model)):
        split = {name for entry in layout.state_rules.spec(param.axes) for name in axis_names(entry)}
        bytes_here = FLOAT32 * param.size / math.prod(sizes[name] for name in split if name != "fsdp")
        axes = [name for name in ("data", "fsdp", "expert", "context") if name not in split]
        if "fsdp" in split:
            sharded += bytes_here
            if mesh.zero == 1:
                axes = ["fsdp", *axes]
            else:
                bytes_here /= sizes["fsdp"]
        axes = tuple(name for name in axes if sizes[name] > 1)
        reduced[axes] = reduced.get(axes, 0.0) + bytes_here
    for axes, size in reduced.items():
        ways = math.prod(sizes[name] for name in axes)
        yield Traffic(axes, "gradients", "all-reduce", steps, size, ways)
    fsdp = sizes["fsdp"]
    if mesh.zero > 1:
        yield Traffic(("fsdp",), "gradients", "reduce-scatter", steps, sharded, fsdp)
    gathers = 2 * steps if mesh.zero == 3 else 1
    yield Traffic(("fsdp",), "parameters", "all-gather", gathers, sharded, fsdp)


def _layers(experiment: Experiment, sizes: Mapping[str, int]) -> Iterator[Traffic]:
    model, training = experiment.model, experiment.training
    width = 2 if model.compute_dtype == "bfloat16" else 4
    rows = training.batch_size / training.accumulation / (sizes["data"] * sizes["fsdp"] * sizes["expert"])
    tokens = rows * model.context_length / sizes["context"]
    for block in model.blocks():
        for mixer in (block.mixer, block.channel):
            if mixer == "none":
                continue
            yield from _tensor(experiment, sizes, training.accumulation, width * tokens * model.d_model)
            if layer_of(mixer).along_text(mixer):
                yield from _whole_rows(sizes, training.accumulation, width * tokens * model.d_model)
            elif isinstance(mixer, AttentionConfig | LatentAttentionConfig):
                yield from _context(model, experiment.mesh, mixer, sizes, training.accumulation, tokens, width)
            elif isinstance(mixer, MoEConfig):
                yield from _expert(experiment, mixer, sizes, tokens, width)


def _tensor(experiment: Experiment, sizes: Mapping[str, int], steps: int, stream: float) -> Iterator[Traffic]:
    """One sum a mixer, forward and backward (Shoeybi et al. 2019, section 3); with the stream split along the text the
    two halves of it, a gather before and a scatter behind (Korthikanti et al. 2022, section 4.2.2)."""
    if not experiment.mesh.sequence_parallel:
        yield Traffic(("tensor",), "stream", "all-reduce", 2 * steps, stream, sizes["tensor"])
        return
    for operation in ("all-gather", "reduce-scatter"):
        yield Traffic(("tensor",), "stream", operation, 2 * steps, stream, sizes["tensor"])


def _whole_rows(sizes: Mapping[str, int], steps: int, stream: float) -> Iterator[Traffic]:
    """A layer that goes along the text: the stream is gathered and its result summed, and the same backward."""
    whole, ways = stream * sizes["context"], sizes["context"]
    yield Traffic(("context",), "stream of a layer along the text", "all-gather", steps, whole, ways)
    yield Traffic(("context",), "stream of a layer along the text", "all-reduce", 2 * steps, whole, ways)


def _context(model: ModelConfig, mesh: MeshConfig, mixer, sizes, steps: int, tokens: float, width: int):
    """Keys and values of the other devices' tokens: in a ring N - 1 times forward and backward, with their float32
    gradients N times (Liu et al. 2023); gathered, and their gradients scattered (Llama 3, section 3.3.2); or all of
    queries, keys, values and results change from text to heads or back (Jacobs et al. 2023)."""
    ways, tensor = sizes["context"], sizes["tensor"]
    if isinstance(mixer, LatentAttentionConfig):
        H = G = mixer.num_heads
        K, V = mixer.nope_dim + mixer.rope_dim, mixer.value_dim
    else:
        H, G, K = mixer.num_heads, mixer.kv_heads, model.head_width(mixer)
        V = K
    each = tokens * G * (K + V) / tensor
    match mesh.context_form:
        case "ring":
            yield Traffic(
                ("context",), "keys and values", "collective-permute", 2 * steps * (ways - 1), each * width, ways
            )
            yield Traffic(
                ("context",), "gradients of keys and values", "collective-permute", steps * ways, each * FLOAT32, ways
            )
        case "all_gather":
            yield Traffic(("context",), "keys and values", "all-gather", steps, each * width * ways, ways)
            yield Traffic(
                ("context",), "gradients of keys and values", "reduce-scatter", steps, each * width * ways, ways
            )
        case "ulysses":
            repeated = max(1, ways // (G // tensor))
            size = width * (tokens * H * (K + V) / tensor + each * repeated)
            yield Traffic(("context",), "queries, keys, values, results", "all-to-all", 2 * steps, size, ways)


def _expert(experiment: Experiment, config: MoEConfig, sizes, tokens: float, width: int) -> Iterator[Traffic]:
    """Rows go to their experts and back, forward and backward (Lepikhin et al. 2021, section 3.2). Padded blocks are of
    all rows of a device unless the mesh limits their room; ragged ones are on average the rows themselves."""
    if config.dispatch != "dropless" or config.router == "expert_choice":
        return
    mesh, ways = experiment.mesh, sizes["expert"]
    rows = tokens * config.top_k
    if mesh.exchange == "padded":
        rows = ways * min(rows, math.ceil(mesh.exchange_room * rows / ways)) if mesh.exchange_room else ways * rows
    operation = "all-to-all" if mesh.exchange == "padded" else "ragged-all-to-all"
    size = rows * experiment.model.d_model * width
    yield Traffic(("expert",), "tokens", operation, 4 * experiment.training.accumulation, size, ways)
