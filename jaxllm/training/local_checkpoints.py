"""Checkpoints on each host's own disk or memory: written often, read first, and gone with the host.

Each process keeps the pieces of arrays that its devices hold, each different piece once, in one file a step:
`DIRECTORY/STEP/process-P-of-N`, a line of JSON (what is in it, where, checksums, progress) and then the bytes. A step
can be used when every process has its part, and each piece that its devices need now is in it: after a change of the
mesh it can't, and the run's shared checkpoints are what remains.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.parallel.agreement import everyone, gather
from jaxllm.training.checkpoints import flatten
from jaxllm.training.state import TrainState

KEPT = 2
REMEMBERED_STEPS = 8  # offered to the others when agreeing on one; more than are kept


class LocalCheckpoints:
    """Those of one run in this process; `identity` tells runs of one name on one machine apart."""

    def __init__(self, directory: str | Path, run: Path, identity: str):
        self.directory = Path(directory).expanduser() / f"{run.name}-{identity}"
        self._file = f"process-{jax.process_index()}-of-{jax.process_count()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".{self._file}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ValueError(
                f"checkpoints.local_directory={directory} cannot be written ({error.strerror}): choose another, or set "
                "checkpoints.local_every=0"
            ) from error

    def steps(self) -> list[int]:
        """Steps of which this process has its part, ascending."""
        parts = self.directory.glob(f"*/{self._file}")
        return sorted(int(part.parent.name) for part in parts if part.parent.name.isdigit())

    def common_steps(self) -> list[int]:
        """Steps of which every process has its part, ascending; the same list in every process."""
        mine = self.steps()[-REMEMBERED_STEPS:]
        # In halves, since what is gathered is float32: exact below 2^24.
        halves = [half for step in mine for half in divmod(step, 1 << 20)]
        table = gather(*halves, *[-1.0] * (2 * REMEMBERED_STEPS - len(halves))).astype(int)
        offered = [{high << 20 | low for high, low in row.reshape(-1, 2) if high >= 0} for row in table]
        return sorted(set.intersection(*offered))

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Returns when this process's part is on its disk. Raises ValueError if it can't be written."""
        step = int(state.step)
        pieces, contents = [], []
        offset = 0
        for name, array in flatten(state).items():
            for index, piece in _pieces(array):
                data = np.ascontiguousarray(piece).tobytes()
                pieces.append(
                    {
                        "name": name,
                        "index": index,
                        "dtype": str(array.dtype),
                        "shape": list(piece.shape),
                        "offset": offset,
                        "bytes": len(data),
                        "crc": zlib.crc32(data),
                    }
                )
                contents.append(data)
                offset += len(data)
        header = json.dumps({"progress": {**progress, "step": step}, "pieces": pieces}).encode()
        part = self.directory / str(step) / self._file
        try:
            part.parent.mkdir(exist_ok=True)
            temporary = part.with_name(f".{self._file}")
            with open(temporary, "wb") as file:
                file.write(header + b"\n")
                file.writelines(contents)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(part)
        except OSError as error:
            raise ValueError(
                f"could not write the local checkpoint of step {step} to {part} ({error.strerror}): free space, or set "
                "checkpoints.local_every=0, then run the same command to resume"
            ) from error
        for old in self.steps()[:-KEPT]:
            self.drop(old)

    def drop(self, step: int) -> None:
        """Forget this process's part of a step."""
        folder = self.directory / str(step)
        (folder / self._file).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)  # another process of this machine may be doing the same

    def drop_after(self, step: int) -> None:
        """Forget steps that a rollback undid."""
        for later in self.steps():
            if later > step:
                self.drop(later)

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The state in the shapes and shardings of `target`; None, in every process, where any misses or doubts a
        piece."""
        try:
            found = self._read(step, target)
        except (OSError, ValueError, KeyError):
            found = None
        return found if everyone(found is not None) else None

    def _read(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        with open(self.directory / str(step) / self._file, "rb") as file:
            header = json.loads(file.readline())
            start = file.tell()
            pieces = {(p["name"], _key(p["index"])): p for p in header["pieces"]}

            def piece(name: str, index: list[list[int]], wanted: Any) -> np.ndarray:
                entry = pieces[name, _key(index)]
                if entry["dtype"] != str(wanted.dtype):
                    raise ValueError(f"{name} is {entry['dtype']}")
                file.seek(start + entry["offset"])
                data = file.read(entry["bytes"])
                if zlib.crc32(data) != entry["crc"]:
                    raise ValueError(f"{name} is damaged")
                return np.frombuffer(data, jnp.dtype(entry["dtype"])).reshape(entry["shape"])

            arrays = [_assemble(name, wanted, piece) for name, wanted in flatten(target).items()]
        return jax.tree.unflatten(jax.tree.structure(target), arrays), header["progress"]


def _pieces(array: jax.Array) -> list[tuple[list[list[int]], np.ndarray]]:
    """(place in the global array, contents) of each different piece on this process's devices."""
    pieces: dict[str, tuple[list[list[int]], Any]] = {}
    for shard in array.addressable_shards:
        index = _ranges(shard.index, array.shape)
        pieces.setdefault(_key(index), (index, shard.data))
    return [(index, np.asarray(data)) for index, data in pieces.values()]


def _assemble(name: str, wanted: Any, piece: Any) -> jax.Array:
    places = wanted.sharding.addressable_devices_indices_map(wanted.shape)
    parts = [
        jax.device_put(piece(name, _ranges(index, wanted.shape), wanted), device) for device, index in places.items()
    ]
    return jax.make_array_from_single_device_arrays(wanted.shape, wanted.sharding, parts)


def _ranges(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[list[int]]:
    return [list(part.indices(size)[:2]) for part, size in zip(index, shape, strict=True)]


def _key(index: list[list[int]]) -> str:
    return json.dumps(index)
