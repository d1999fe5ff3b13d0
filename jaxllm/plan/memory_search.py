"""Which remat policy, microbatch and mesh a slice has room for, tried out with its compiler rather than guessed.

One compilation a candidate: layers are scanned, so that a model of 100 layers compiles as quickly as one of two, and
there is nothing to gain from shrinking it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxllm.models.decoder import decoder_spec
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.sharding import layout_of, param_shardings
from jaxllm.plan.ahead import Compiled, compile_for, topology_mesh
from jaxllm.plan.out_of_memory import OutOfMemory
from jaxllm.plan.topology import Topology, compile_only_devices
from jaxllm.training.experiment import Experiment

# From what is quickest to what needs least; policies in between would be further rungs.
POLICIES = ("none", "dots", "full")
TENSOR_WAYS = (1, 2, 4, 8, 16)

RULE = (
    "each mesh starts with one row a device and microbatch and the first remat policy that fits; then two, four, ... "
    "rows as long as they fit; the candidate of the shortest step, no communication hidden, wins"
)


@dataclass(frozen=True)
class Candidate:
    """One setting that was compiled."""

    experiment: Experiment
    needed: int
    """Bytes on each device."""
    limit: int
    compiled: Compiled | None
    """None where it does not fit."""

    @property
    def seconds(self) -> float:
        return self.compiled.timing.worst if self.compiled else float("inf")

    def describe(self) -> str:
        training = self.experiment.training
        axes = " x ".join(f"{name}={size}" for name, size in self.experiment.mesh.sizes().items() if size != 1)
        return f"{axes or 'one device'}, accumulation {training.accumulation}, remat {training.remat}"

    def to_json(self) -> dict[str, Any]:
        training = self.experiment.training
        return {
            "mesh": self.experiment.mesh.sizes(),
            "accumulation": training.accumulation,
            "remat": training.remat,
            "needed": self.needed,
            "limit": self.limit,
            "fits": self.compiled is not None,
            "worst_seconds": self.compiled and self.compiled.timing.worst,
        }


def search(
    experiment: Experiment,
    topology: Topology,
    *,
    most: int = 12,
    say: Callable[[str], None] = lambda line: None,
    compile: Callable[[Experiment, Topology], Compiled] = compile_for,
) -> tuple[Candidate, ...]:
    """Candidates that were compiled, `most` at most, the best first. The batch stays what it is.

    Raises ValueError where no mesh suits model, batch and slice, or where nothing fits.
    """
    tried: list[Candidate] = []

    def fits(candidate: Experiment) -> bool:
        if len(tried) == most:
            return False
        found = _try(candidate, topology, compile)
        tried.append(found)
        room = "fits" if found.compiled else "does not fit"
        say(f"{found.describe()}: {found.needed / 2**30:,.2f} of {found.limit / 2**30:,.2f} GiB, {room}")
        return found.compiled is not None

    for mesh, shards in meshes(experiment, topology):
        _climb(replace(experiment, mesh=mesh), experiment.training.batch_size // shards, fits)
    tried.sort(key=lambda candidate: (candidate.compiled is None, candidate.seconds, candidate.needed))
    if not tried:
        raise ValueError(
            f"no mesh of data, fsdp and tensor suits {topology.name}: a batch of {experiment.training.batch_size} rows "
            f"is to be divided over data and fsdp, heads and widths over tensor, of {topology.devices} devices in all"
        )
    if tried[0].compiled is None:
        least = min(tried, key=lambda candidate: candidate.needed)
        raise ValueError(
            f"nothing that was tried fits into {topology.name}; the least was {least.describe()}: it needs "
            f"{least.needed / 2**30:,.2f} GiB of {least.limit / 2**30:,.2f}. Take a larger slice, or shorter rows"
        )
    return tuple(tried)


def meshes(experiment: Experiment, topology: Topology) -> Iterator[tuple[MeshConfig, int]]:
    """The experiment's own mesh, then all-sharded ones with more and more devices in the tensor axis: those that the
    slice, the model and the batch allow, each with the number of parts that it splits the batch into."""
    devices = compile_only_devices(topology)
    spec, seen = decoder_spec(experiment.model), set()
    others = (
        replace(experiment.mesh, data=topology.slices, fsdp=topology.devices // (ways * topology.slices), tensor=ways)
        for ways in TENSOR_WAYS
        if topology.devices % (ways * topology.slices) == 0
    )
    for config in (experiment.mesh, *others):
        try:
            layout = layout_of(config, topology_mesh(config, topology, devices))
            param_shardings(spec, layout)
        except ValueError:
            continue  # not a mesh for this slice or this model; the next may be one
        sizes = tuple(layout.mesh.shape.items())
        if sizes in seen or experiment.training.batch_size % layout.batch_shards:
            continue
        seen.add(sizes)
        yield replace(config, **dict(sizes)), layout.batch_shards


def _climb(experiment: Experiment, rows: int, fits: Callable[[Experiment], bool]) -> None:
    """From one row a device and microbatch upwards; `rows` is what a device has of the batch."""
    at = lambda remat, accumulation: replace(  # noqa: E731
        experiment, training=replace(experiment.training, remat=remat, accumulation=accumulation)
    )
    remat = next((policy for policy in POLICIES if fits(at(policy, rows))), None)
    while remat and rows > 1 and rows % 2 == 0:
        rows //= 2
        if not fits(at(remat, rows)):
            return


def _try(experiment: Experiment, topology: Topology, compile: Callable[[Experiment, Topology], Compiled]) -> Candidate:
    try:
        compiled = compile(experiment, topology)
    except OutOfMemory as error:
        return Candidate(experiment, error.needed, error.available, None)
    return Candidate(experiment, compiled.memory.peak, compiled.memory.limit, compiled)
