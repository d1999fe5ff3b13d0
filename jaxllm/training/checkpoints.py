"""Checkpoints: orbax underneath, strict and verified above.

A checkpoint of step n is the directory `checkpoints/n` with four items: `params` (what a model needs), `ema` (if kept),
`training` (optimizer state, counters, random key) and `progress` (JSON: data iterator, recovery, digests, config, ...). Arrays are
stored under flat names, `segments.0.0.mixer.query`, whatever the containers that held them, in global shape, so that they can be
restored onto any mesh. Orbax writes to a temporary directory and renames it, so a checkpoint is whole or absent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from jaxllm.training.digest import digests
from jaxllm.training.experiment import CheckpointConfig
from jaxllm.training.state import TrainState

Arrays = dict[str, jax.Array]


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
        self.directory = epath.Path(directory)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_preservation(config),
            enable_async_checkpointing=config.asynchronous,
            cleanup_tmp_directories=True,
            step_prefix=None,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if error is None:
                self.wait()
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
        step = int(state.step)
        items = _items(state)
        progress = {**progress, "step": step, "digests": {name: digests(arrays) for name, arrays in items.items()}}
        arguments = {name: ocp.args.StandardSave(arrays) for name, arrays in items.items()}
        try:
            self._manager.check_for_errors()
            self._manager.save(
                step,
                args=ocp.args.Composite(progress=ocp.args.JsonSave(progress), **arguments),
                metrics=None if val_loss is None else {"val_loss": val_loss},
                force=True,
            )
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Until the last save is on disk. Raises CheckpointError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(None, error) from error

    def restore(self, target: TrainState) -> Restored | None:
        """The newest checkpoint that is whole, in the shapes and shardings of `target`; None where there is none.

        A damaged one (unreadable, or arrays that do not match their digests) is moved aside to `damaged-STEP` and the one
        before it is tried. Raises CheckpointError when checkpoints exist but none can be read, and when a readable one does
        not fit `target`: each missing, unexpected or misshapen array is named.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                state, progress = _read(self.directory / str(step), target)
            except Mismatch:
                raise
            except Exception as error:
                aside = self.directory.parent / f"damaged-{step}"
                damaged.append(f"checkpoint {step} is damaged ({_first_line(error)}); moved to {aside}")
                self._set_aside(step, aside)
                continue
            return Restored(state, progress, step, tuple(damaged))
        if damaged:
            raise CheckpointError("no usable checkpoint is left:\n  " + "\n  ".join(damaged))
        return None

    def _set_aside(self, step: int, aside: epath.Path) -> None:
        if jax.process_index() == 0:
            if aside.exists():
                aside.rmtree()
            (self.directory / str(step)).rename(aside)
        self._manager.reload()

    def _failed(self, step: int | None, error: Exception) -> CheckpointError:
        kept = [s for s in self.steps() if s != step]
        which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        intact = f"The checkpoint of step {kept[-1]} is intact: free space or fix the path, then run the same command to resume"
        return CheckpointError(
            f"could not write {which} in {self.directory}: {_first_line(error)}. "
            + (intact if kept else "There is no earlier checkpoint")
        )


class Mismatch(CheckpointError):
    """A whole checkpoint of another model or optimizer."""


def restore_item(directory: epath.PathLike, item: str, target: Any) -> Any:
    """One item (`params`, `ema` or `training`) of a checkpoint directory, as a pytree like `target` (abstract, with shardings).

    Raises Mismatch naming each array that does not fit, CheckpointError when the contents do not match their digests.
    """
    directory = epath.Path(directory)
    return _read_item(directory, item, target, _read_progress(directory)["digests"][item])


def _read(directory: epath.Path, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
    progress = _read_progress(directory)
    parts = {}
    for item, tree in _trees(target).items():
        if item not in progress["digests"]:
            raise Mismatch(f"{directory} holds no {item!r}: it was written by a run with training.ema_decay=0")
        parts[item] = _read_item(directory, item, tree, progress["digests"][item])
    state = TrainState(params=parts["params"], ema=parts.get("ema"), **parts["training"])
    return state, progress


def _read_progress(directory: epath.Path) -> dict[str, Any]:
    return json.loads((directory / "progress" / "metadata").read_text())


def _read_item(directory: epath.Path, item: str, target: Any, expected: dict[str, int]) -> Any:
    wanted = flatten(target)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(directory / item).item_metadata
        _compare(directory / item, wanted, {name: tuple(found[name].shape) for name in found})
        arrays = checkpointer.restore(directory / item, wanted)
    actual = digests(arrays)
    broken = [name for name in expected if actual[name] != expected[name]]
    if broken:
        raise CheckpointError(f"contents of {', '.join(broken[:4])} differ from what was saved")
    return jax.tree.unflatten(jax.tree.structure(target), list(arrays[name] for name in wanted))


def _compare(where: epath.Path, wanted: Arrays, found: dict[str, tuple[int, ...]]) -> None:
    problems = [f"missing: {name} {wanted[name].shape}" for name in wanted if name not in found]
    problems += [f"unexpected: {name} {found[name]}" for name in found if name not in wanted]
    problems += [
        f"shape: {name} is {found[name]} in the checkpoint, {wanted[name].shape} in the model"
        for name in wanted
        if name in found and found[name] != wanted[name].shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise Mismatch(f"{where} does not fit this model:\n  " + "\n  ".join(problems[:20]) + more)


def flatten(tree: Any) -> Arrays:
    """Leaves by dotted path, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _trees(state: TrainState) -> dict[str, Any]:
    training = {name: getattr(state, name) for name in ("step", "opt_state", "key_data", "skipped")}
    trees = {"params": state.params, "training": training}
    return trees if state.ema is None else {**trees, "ema": state.ema}


def _items(state: TrainState) -> dict[str, Arrays]:
    return {name: flatten(tree) for name, tree in _trees(state).items()}


def _preservation(config: CheckpointConfig) -> checkpoint_managers.PreservationPolicy:
    policies = [checkpoint_managers.LatestN(config.keep_last)]
    if config.keep_every:
        policies.append(checkpoint_managers.EveryNSteps(config.keep_every))
    if config.keep_best:
        policies.append(
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics["val_loss"],
                reverse=True,
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return checkpoint_managers.AnyPreservationPolicy(policies)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
