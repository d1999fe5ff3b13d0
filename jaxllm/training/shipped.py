"""The model that a run directory stands for: the parameters that were evaluated, from its newest whole checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxllm.models.declare import abstract
from jaxllm.models.decoder import decoder_spec
from jaxllm.training.checkpoints import CheckpointError, Mismatch, restore_item, training_part
from jaxllm.training.experiment import Experiment
from jaxllm.training.optimizers import evaluation_params, make_optimizer
from jaxllm.training.precision import make_precision
from jaxllm.training.run_directory import read_config
from jaxllm.training.state import initial_state
from jaxllm.training.stochastic_rounding import widened

logger = logging.getLogger(__name__)


def restore_params(run: str | Path, step: int | None = None) -> tuple[Experiment, Any, int]:
    """`(experiment, params, step)` of the newest whole checkpoint, or of one step; arrays go to the first local device.

    Nothing is written, so a run that is still going can be read. The parameters are the moving average where the run
    keeps one, and schedule-free's averaged point where that is the optimizer. A damaged checkpoint is logged and the
    one before it is used. Raises CheckpointError when there is none, or when the wanted one is damaged.
    """
    run = epath.Path(run)
    experiment = read_config(run / "config.json")
    steps = checkpoint_steps(run / "checkpoints")
    if step is not None and step not in steps:
        raise CheckpointError(f"{run} has no checkpoint of step {step}; it has {steps or 'none yet'}")
    for candidate in [step] if step is not None else reversed(steps):
        try:
            return experiment, _restore(run / "checkpoints" / str(candidate), experiment), candidate
        except Mismatch:
            raise
        except Exception as error:
            if step is not None:
                raise CheckpointError(f"checkpoint {step} of {run} is damaged: {error}") from error
            logger.warning("checkpoint %s of %s is damaged (%s); trying the one before", candidate, run, error)
    raise CheckpointError(f"{run} has no usable checkpoint: it has steps {steps or 'none yet'}")


def checkpoint_steps(directory: epath.Path) -> list[int]:
    """Steps of the finished checkpoints, ascending; a half-written one has another name."""
    if not directory.is_dir():
        return []
    return sorted(int(child.name) for child in directory.iterdir() if child.name.isdigit())


def _restore(directory: epath.Path, experiment: Experiment) -> Any:
    spec, kind = decoder_spec(experiment.model), experiment.optimizer.kind
    if experiment.training.ema_decay:
        return restore_item(directory, "ema", _here(abstract(spec)))
    precision = make_precision(experiment.precision, spec, experiment.model.compute_dtype)
    params = widened(restore_item(directory, "params", _here(precision.store_params(abstract(spec)))))
    if kind != "schedule_free":
        return params
    optimizer = make_optimizer(experiment.optimizer, spec, experiment.training.steps, experiment.model)
    state = jax.eval_shape(lambda: initial_state(spec, optimizer, 0, False, precision))
    training = restore_item(directory, "training", _here(training_part(state)))
    return evaluation_params(experiment.optimizer, params, widened(training["opt_state"]))


def _here(tree: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
