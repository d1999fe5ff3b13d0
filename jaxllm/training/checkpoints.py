"""Checkpoints: orbax underneath, strict and verified above.

A checkpoint of step n is the directory `checkpoints/n` with four items: `params` (what a model needs), `ema` (if kept),
`training` (optimizer state, counters, random key) and `progress` (JSON: data iterator, recovery, digests, config, ...).
Arrays are stored under flat names, `segments.0.0.mixer.query`, whatever the containers that held them, in global shape,
so that they can be restored onto any mesh. Orbax writes to a temporary directory and renames it, so a checkpoint is
whole or absent. What a disk does to it later is seen by the digests of its arrays and the checksum of its progress.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from jaxllm.parallel.agreement import everyone
from jaxllm.training.digest import digests
from jaxllm.training.experiment import CheckpointConfig
from jaxllm.training.state import TrainState

Arrays = dict[str, jax.Array]
Records = dict[str, list]  # by name: [type and shape, digest]


class CheckpointError(ValueError):
    """A checkpoint that can't be written, read or used; the message says which, why and what to do."""


@dataclass(frozen=True)
class Restored:
    state: TrainState
    progress: dict[str, Any]
    step: int
    damaged: tuple[str, ...]  # a line for each newer checkpoint that had to be passed over


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for the last save."""

    def __init__(self, directory: epath.PathLike, config: CheckpointConfig):
        directory = epath.Path(directory)
        # Orbax refuses relative paths; `absolute` would mistake gs:// for one.
        self.directory = directory if directory.is_absolute() else directory.absolute()
        self._val_losses: dict[int, float] = {}
        self._saving: int | None = None
        self._policy = _preservation(config, self._val_losses)
        logging.getLogger("absl").addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            enable_async_checkpointing=config.asynchronous,
            cleanup_tmp_directories=True,
            step_prefix=None,
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(
                f"{self.directory} cannot be written ({error.strerror}): choose another run directory with --run DIR"
            ) from error
        for step in self.steps():
            self._remember(step)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(f"besides, it {failure}")
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, progress: dict[str, Any], val_loss: float | None = None) -> None:
        """Start writing; arrays are copied off the devices before this returns, the rest goes on in the background.

        Raises CheckpointError if this or the previous save failed. Everything in `progress` must be JSON.
        """
        self.wait()
        step = self._saving = int(state.step)
        items = _items(state)
        records = {item: _records(arrays) for item, arrays in items.items()}
        progress = {**progress, "step": step, "val_loss": val_loss, "arrays": records}
        arguments = {name: ocp.args.StandardSave(arrays) for name, arrays in items.items()}
        if val_loss is not None and math.isfinite(val_loss):
            self._val_losses[step] = val_loss
        try:
            self._manager.save(
                step, args=ocp.args.Composite(progress=ocp.args.JsonSave(_sealed(progress)), **arguments), force=True
            )
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Until the last save is on disk. Raises CheckpointError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(self._saving, error) from error

    def restore(self, target: TrainState) -> Restored | None:
        """The newest checkpoint that is whole, in the shapes and shardings of `target`; None where there is none.

        A damaged one (unreadable, or arrays that do not match their digests) is passed over for the one before it, and
        moved aside to `damaged-STEP` once that proves whole: if none does, the fault may lie elsewhere, and all stay
        where they are. Raises CheckpointError when checkpoints exist but none can be read, and when a readable one does
        not fit `target`: each missing, unexpected or misshapen array is named.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            problem = ""
            try:
                state, progress = _read(self.directory / str(step), target)
            except Mismatch:
                raise
            except Exception as error:
                problem = f"checkpoint {step} is damaged ({_first_line(error)})"
            if not everyone(not problem):
                damaged[step] = problem or f"checkpoint {step} could not be read by another host"
                continue
            moved = tuple(f"{why}; moved to {self._set_aside(broken)}" for broken, why in damaged.items())
            self._finish_removals()
            return Restored(state, progress, step, moved)
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.directory} can be used; move the directory away to start from step 0:\n  "
                + "\n  ".join(damaged.values())
            )
        return None

    def read(self, step: int, target: TrainState) -> Restored:
        """One checkpoint by its step. Raises CheckpointError when it is not there, does not fit or is damaged."""
        if step not in self.steps():
            raise CheckpointError(f"{self.directory} has no checkpoint of step {step}; it has {self.steps()}")
        try:
            state, progress = _read(self.directory / str(step), target)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"checkpoint {step} is damaged ({_first_line(error)})") from error
        return Restored(state, progress, step, ())

    def _set_aside(self, step: int) -> epath.Path:
        aside = self.directory.parent / f"damaged-{step}"
        if jax.process_index() == 0:
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)
        everyone(True)  # so that nobody lists the directory before
        self._val_losses.pop(step, None)
        self._manager.reload()
        return aside

    def _finish_removals(self) -> None:
        """Remove what the policy does not keep: a process that was killed may have left a part of one."""
        infos = [SimpleNamespace(step=step) for step in self.steps()]
        kept = self._policy.should_preserve(infos, context=checkpoint_managers.PreservationContext())
        for info, keep in zip(infos, kept, strict=True):
            if not keep:
                self._manager.delete(info.step)

    def _remember(self, step: int) -> None:
        """The validation loss of a checkpoint on disk, for the rule that keeps the best."""
        try:
            val_loss = _read_progress(self.directory / str(step))["val_loss"]
        except Exception:  # `restore` is where damage is reported
            return
        if val_loss is not None and math.isfinite(val_loss):
            self._val_losses[step] = val_loss

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        kept = [s for s in self.steps() if s != step]
        intact = f"The checkpoint of step {kept[-1]} is intact" if kept else "There is no earlier checkpoint"
        return CheckpointError(
            f"could not write the checkpoint of step {step} in {self.directory}: {_first_line(error)}. {intact}: "
            "free space or fix the path, then run the same command to resume"
        )


class Mismatch(CheckpointError):
    """A whole checkpoint of another model or optimizer."""


def restore_item(directory: epath.PathLike, item: str, target: Any) -> Any:
    """One item (`params`, `ema`, `training`) of a checkpoint directory, as a pytree like `target` (abstract, placed).

    Raises Mismatch naming each array that does not fit, CheckpointError when the contents do not match their digests.
    """
    directory = epath.Path(directory)
    return _read_item(directory, item, target, _read_progress(directory)["arrays"][item])


def _read(directory: epath.Path, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
    progress, trees = _read_progress(directory), _trees(target)
    records = progress["arrays"]
    if records.keys() != trees.keys():
        raise Mismatch(
            f"{directory} holds {', '.join(records)}; this run keeps {', '.join(trees)}: "
            "training.ema_decay must stay 0 or stay above 0"
        )
    parts = {item: _read_item(directory, item, tree, records[item]) for item, tree in trees.items()}
    return TrainState(params=parts["params"], ema=parts.get("ema"), **parts["training"]), progress


def _sealed(progress: dict[str, Any]) -> dict[str, Any]:
    """With a checksum over everything else."""
    progress = json.loads(json.dumps(progress))
    return {**progress, "checksum": _checksum(progress)}


def _read_progress(directory: epath.Path) -> dict[str, Any]:
    progress = json.loads((directory / "progress" / "metadata").read_text())
    if progress.pop("checksum") != _checksum(progress):
        raise CheckpointError("contents of its progress differ from what was saved")
    return progress


def _checksum(progress: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()


def _read_item(directory: epath.Path, item: str, target: Any, records: Records) -> Any:
    wanted = flatten(target)
    _compare(directory / item, wanted, records)
    # The handler itself: a checkpointer around it would look for metadata that only whole checkpoints have, and warn.
    handler = ocp.StandardCheckpointHandler()
    try:
        arrays = handler.restore(directory / item, args=ocp.args.StandardRestore(wanted))
    finally:
        handler.close()
    found = _records(arrays)
    broken = [name for name in wanted if found[name] != records[name]]
    if broken:
        raise CheckpointError(f"contents of {', '.join(broken[:4])} differ from what was saved")
    return jax.tree.unflatten(jax.tree.structure(target), [arrays[name] for name in wanted])


def _compare(where: epath.Path, wanted: Arrays, records: Records) -> None:
    problems = [f"missing: {name} {_kind(wanted[name])}" for name in wanted if name not in records]
    problems += [f"unexpected: {name} {kind}" for name, (kind, _) in records.items() if name not in wanted]
    problems += [
        f"different: {name} is {records[name][0]} in the checkpoint, {_kind(wanted[name])} in the model"
        for name in wanted
        if name in records and records[name][0] != _kind(wanted[name])
    ]
    if problems:
        raise Mismatch(f"{where} does not fit this model:\n  " + "\n  ".join(problems))


def _records(arrays: Arrays) -> Records:
    return {name: [_kind(arrays[name]), digest] for name, digest in digests(arrays).items()}


def _kind(array: Any) -> str:
    """`float32[64, 16]`"""
    return f"{array.dtype}{list(array.shape)}"


def flatten(tree: Any) -> Arrays:
    """Leaves by dotted path, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def training_part(state: TrainState) -> dict[str, Any]:
    """What the item `training` of a checkpoint holds; what a run does not keep is None, which has no arrays."""
    names = ("step", "opt_state", "key_data", "skipped", "loss_scale", "histories")
    return {name: getattr(state, name) for name in names}


def _trees(state: TrainState) -> dict[str, Any]:
    trees = {"params": state.params, "training": training_part(state)}
    return trees if state.ema is None else {**trees, "ema": state.ema}


def _items(state: TrainState) -> dict[str, Arrays]:
    return {name: flatten(tree) for name, tree in _trees(state).items()}


def _preservation(config: CheckpointConfig, val_losses: dict[int, float]) -> checkpoint_managers.PreservationPolicy:
    policies = [checkpoint_managers.LatestN(config.keep_last), _Best(config.keep_best, val_losses)]
    if config.keep_every:
        policies.append(checkpoint_managers.EveryNSteps(config.keep_every))
    return checkpoint_managers.AnyPreservationPolicy(policies)


@dataclass
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps those with the lowest validation loss. Orbax's own rule forgets the losses when the process ends."""

    n: int
    val_losses: dict[int, float]  # by step; those that were not evaluated are absent

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        steps = [info.step for info in checkpoints]
        best = sorted((step for step in steps if step in self.val_losses), key=self.val_losses.__getitem__)[: self.n]
        return [step in best for step in steps]


def _first_line(error: Exception) -> str:
    """Without the middle if it is long: such messages name what was done first and what went wrong last."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 300 else f"{line[:100]} ... {line[-200:]}"


def _is_news(record: logging.LogRecord) -> bool:
    """Orbax logs an error with its traceback in each thread that it passes through, then raises it; and warns of what a
    damaged checkpoint lacks, which `restore` reports. Once is enough."""
    told_here = record.levelno >= logging.ERROR or str(record.msg).startswith("Metadata file does not exist")
    return not ("orbax" in record.pathname and told_here)
