"""Silent corruption: do all devices that should hold the same numbers hold the same bits?

Data-parallel replicas compute the same update from the same reduced gradients, so their parameters stay equal bit for
bit, unless a chip computes wrongly or its memory forgets. Nothing else in training would tell: a wrong replica feeds
plausible gradients to all others. Each device hashes what it holds itself (`digest.digest`, exact integer sums) without
communication; the hashes, 4 bytes an array and device, are gathered and compared.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.training.digest import digest


class SilentCorruption(FloatingPointError):
    """Devices computed, or kept, something else than they should have."""


@dataclass(frozen=True)
class Difference:
    """Devices whose copy of an array is not what the most of its replicas hold; all of them where none has a
    majority."""

    array: str
    devices: tuple[jax.Device, ...]
    replicas: int
    majority: bool

    def __str__(self) -> str:
        where = ", ".join(f"device {d.id} of process {d.process_index}" for d in self.devices)
        if self.majority:
            return f"{self.array}: {where} differs from the other {self.replicas - len(self.devices)} replicas"
        return f"{self.array}: {where} hold different bits, and which is right can't be told"


def device_digests(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """By name, uint32 of the mesh's shape: the hash of what each device holds of that array.

    All arrays lie on one mesh. The same in every process; replicas of one piece have equal hashes.
    """
    names = tuple(arrays)
    shardings = tuple(array.sharding for array in arrays.values())
    mesh = shardings[0].mesh
    hashes = jax.device_get(_hasher(names, mesh, tuple(s.spec for s in shardings))(*arrays.values()))
    return dict(zip(names, hashes, strict=True))


def find_differences(arrays: dict[str, jax.Array]) -> list[Difference]:
    """Arrays (all on one mesh) whose replicas are not equal bit for bit; empty when all is well, and the same in every
    process."""
    found = []
    for name, hashes in device_digests(arrays).items():
        sharding = arrays[name].sharding
        mesh, used = sharding.mesh, _axes_of(sharding.spec)
        kept = [axis for axis, axis_name in enumerate(mesh.axis_names) if axis_name in used]
        copies = [axis for axis in range(hashes.ndim) if axis not in kept]
        pieces = int(np.prod([hashes.shape[axis] for axis in kept]))
        by_piece = hashes.transpose(*kept, *copies).reshape(pieces, -1)
        devices = mesh.devices.transpose(*kept, *copies).reshape(pieces, -1)
        for of_piece, holders in zip(by_piece, devices, strict=True):
            found += _odd_ones(name, of_piece, holders)
    return found


def _odd_ones(name: str, hashes: np.ndarray, holders: np.ndarray) -> list[Difference]:
    (common, most), *others = Counter(hashes.tolist()).most_common()
    if not others:
        return []
    majority = most > len(hashes) / 2
    odd = [d for d, h in zip(holders, hashes.tolist(), strict=True) if h != common or not majority]
    return [Difference(name, tuple(odd), len(hashes), majority)]


@cache
def _hasher(names: tuple[str, ...], mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    axes = tuple(mesh.axis_names)

    def hash_own(*pieces: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            digest(piece, zlib.crc32(name.encode())).reshape((1,) * len(axes))
            for name, piece in zip(names, pieces, strict=True)
        )

    each = jax.shard_map(
        hash_own, mesh=mesh, in_specs=specs, out_specs=(PartitionSpec(*axes),) * len(names), check_vma=False
    )
    return jax.jit(each, out_shardings=(NamedSharding(mesh, PartitionSpec()),) * len(names))


def _axes_of(spec: PartitionSpec) -> set[str]:
    entries = [(entry,) if isinstance(entry, str) else entry or () for entry in spec]
    return {name for entry in entries for name in entry}
