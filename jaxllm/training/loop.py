"""The one training loop.

A step is dispatched before the metrics of the step before it are read, so the device never waits for the host. All else
(evaluation, checkpoints, going back after a divergence, stopping on request) happens between steps, when it is due.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm import config as configs
from jaxllm.models.config import MoEConfig
from jaxllm.models.declare import count
from jaxllm.objectives.next_token import Batch, Metrics
from jaxllm.parallel.mesh import make_mesh
from jaxllm.parallel.sharding import Layout
from jaxllm.training.checkpoints import Checkpoints
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import Job, Outcome, Reporter, describe_plan
from jaxllm.training.metrics import MetricsLog
from jaxllm.training.optimizers import evaluation_params
from jaxllm.training.profiling import Profile
from jaxllm.training.program import step_program
from jaxllm.training.recovery import Watch
from jaxllm.training.signals import StopRequest
from jaxllm.training.state import TrainState, make_state
from jaxllm.training.step import make_evaluation

# Of mixtures of experts and of multi-token modules.
REPORTED_WHERE_PRESENT = ("router_loss", "max_load", "dropped", "multi_token")


class Trainer:
    """The loop's state: a training state on a mesh, a position in the data, logs and checkpoints of one run
    directory."""

    def __init__(self, job: Job, directory: Path, reporter: Reporter, *, profile: bool = False):
        experiment = job.experiment
        config = experiment.training
        self.job, self.directory, self.reporter, self.config = job, directory, reporter, config
        self.layout = Layout(make_mesh(experiment.mesh))
        _check_balance(experiment)
        program = step_program(experiment, job.spec, job.objective, self.layout)
        self.optimizer, self.target, self.shardings = program.optimizer, program.state, program.shardings
        self._lower = program.lower
        self.evaluate_batch = make_evaluation(job.objective, self.layout, job.token_bytes)
        self.watch = Watch(experiment.recovery)
        self.profile = Profile(directory / "profile", enabled=profile)
        self.step = 0
        self.val: dict[str, float] = {}
        self._evaluated_at = -1
        self.compile_seconds = 0.0
        self._pending: tuple[int, Metrics] | None = None
        self._clock = 0.0

    def run(self) -> Outcome:
        with (
            Checkpoints(self.directory / "checkpoints", self.job.experiment.checkpoints) as self.checkpoints,
            MetricsLog(self.directory) as self.log,
            StopRequest() as stop,
        ):
            self._compile()
            self._resume_or_start()
            self._clock = time.perf_counter()
            stopping = False
            while self.step < self.config.steps and not stopping:
                self._dispatch()
                # Read once: a request that comes in later is for the next step, after which it is saved.
                stopping = bool(stop)
                self._settle(stopping)
            self.profile.stop()
            self.checkpoints.wait()
            if stopping and self.step < self.config.steps:
                saved = self.checkpoints.steps()[-1]
                self.reporter.say(
                    f"{stop.signal.name} received: step {saved} of {self.config.steps} is saved; "
                    "run the same command to resume"
                )
        return Outcome(
            self.step,
            self.config.steps,
            self.val.get("val_loss"),
            self.val.get("val_bpb"),
            self.compile_seconds,
            stop.signal.name if stop.signal else None,
        )

    # Before the first step

    def _compile(self) -> None:
        """Compile ahead of time, so that the plan can show what the step needs and the first step is as quick as the
        rest."""
        start = time.perf_counter()
        self.train_step = self._lower().compile()
        self.compile_seconds = time.perf_counter() - start
        self.reporter.say(describe_plan(self.job, self.layout, self.train_step.memory_analysis(), self.compile_seconds))

    def _resume_or_start(self) -> None:
        restored = self.checkpoints.restore(self.target)
        if restored is None:
            self.log.truncate(0)  # of a run that was killed before its first checkpoint was whole
            self.state = make_state(
                self.job.spec, self.optimizer, self.shardings, seed=self.config.seed, ema=self.config.ema_decay > 0
            )
            self.log.write({"event": "start", "step": 0, "time": time.time(), "parameters": count(self.job.spec)})
            self._save()
            return
        for line in restored.damaged:
            self.reporter.say(line)
        self._take(restored.state, restored.progress)
        self.job.batches.set_state(restored.progress["batches"])
        self.watch.set_state(restored.progress["watch"])
        self.log.truncate(restored.progress["metrics_bytes"])
        if self.step >= self.config.steps:
            self.reporter.say(f"{self.directory} is finished: step {self.step} of {self.config.steps}")
        else:
            self.reporter.say(f"resuming at step {self.step} of {self.config.steps}")
        if restored.progress["evaluation_due"]:
            self._evaluate()

    def _take(self, state: TrainState, progress: dict[str, Any]) -> None:
        self.state, self.step, self.val = state, progress["step"], progress["val"]
        self._evaluated_at = -1

    # A step, and what follows it

    def _dispatch(self) -> None:
        self.profile.before(self.step)
        batch = self._place(next(self.job.batches))
        self.state, metrics = self.train_step(self.state, batch)
        self.step += 1
        self._diverged = self._read_pending()
        self._pending = (self.step, metrics)

    def _settle(self, stopping: bool) -> None:
        """Whatever is due after the step just dispatched."""
        every = self.config.eval_every
        last = self.step == self.config.steps
        evaluation_due = last or (every > 0 and self.step % every == 0)
        save_due = last or stopping or self.step % self.job.experiment.checkpoints.every == 0
        if evaluation_due or save_due:
            self._diverged = self._diverged or self._read_pending()
        if self._diverged:
            self._roll_back(self._diverged)
            return
        if evaluation_due and not stopping:
            self._evaluate()
        # The middle of a bad stretch is no place to go back to. A run that is stopped there resumes before it and sees
        # it again.
        if save_due and (last or not self.watch.suspicious):
            self._save(evaluation_due=evaluation_due and stopping)

    def _read_pending(self) -> str | None:
        """Log the step dispatched before; returns the reason to roll back if there is one."""
        if self._pending is None:
            return None
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        tokens = self.config.batch_size * self.job.experiment.model.context_length
        row = {
            "step": step,
            "tokens": step * tokens,
            **{name: values[name] for name in ("loss", "nll", "accuracy", "learning_rate", "grad_norm")},
            **{name: values[name] for name in sorted(values) if name.startswith(REPORTED_WHERE_PRESENT)},
            "skipped": int(values["skipped"]),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": self._mfu(tokens / seconds),
        }
        self.log.write(row)
        self.reporter.progress(row, self.config.steps)
        if not values["finite"]:
            self.log.write({"event": "skipped_step", "step": step})
            self.reporter.say(
                f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: update left out"
            )
        return self.watch.observe(values["loss"], bool(values["finite"]))

    def _mfu(self, tokens_per_second: float) -> float | None:
        peak = self.job.peak_flops
        return tokens_per_second * self.job.flops_per_token / peak if peak else None

    def _evaluate(self) -> None:
        """Mean loss and bits per byte over the validation part, with the parameters that would be shipped."""
        experiment = self.job.experiment
        params = self.state.ema
        if params is None:
            params = evaluation_params(experiment.optimizer, self.state.params, self.state.opt_state)
        limit = self.config.eval_batches or math.inf
        sums = []
        for index, batch in enumerate(self.job.validation):
            if index >= limit:
                break
            sums.append(self.evaluate_batch(params, self._place(batch)))
        sums = jax.device_get(sums)
        nll, weight, size = (sum(float(s[name]) for s in sums) for name in ("nll", "weight", "bytes"))
        if not weight:
            raise ValueError(
                "the validation part holds no target to predict: give more text, or validate on a larger part"
            )
        # A model of a bare vocabulary of special tokens would stand for no bytes.
        self.val = {"val_loss": nll / weight, "val_bpb": nll / math.log(2) / size if size else math.nan}
        self._evaluated_at = self.step
        row = {"step": self.step, **self.val}
        self.log.write(row)
        self.reporter.progress(row, self.config.steps)
        self._clock = time.perf_counter()

    def _save(self, evaluation_due: bool = False) -> None:
        progress = {
            "batches": self.job.batches.get_state(),
            "watch": self.watch.get_state(),
            "metrics_bytes": self.log.offset(),
            "val": self.val,
            "evaluation_due": evaluation_due,
            "config": json.loads(configs.to_json(self.job.experiment)),
        }
        self.checkpoints.save(self.state, progress, self.val["val_loss"] if self._evaluated_at == self.step else None)
        self._clock = time.perf_counter()

    def _roll_back(self, reason: str) -> None:
        """Back to the last checkpoint, but not back in the data: the batches since then are left out (PaLM, section
        5.1)."""
        came_from = self.step
        self.checkpoints.wait()
        self.state = None  # its memory is needed for the one to go back to
        restored = self.checkpoints.restore(self.target)
        if restored is None:
            raise FloatingPointError(f"{reason} at step {came_from}, and there is no checkpoint to go back to")
        for line in restored.damaged:
            self.reporter.say(line)
        self._pending = None
        self._take(restored.state, restored.progress)
        self.watch.rolled_back()
        row = {"event": "rollback", "step": self.step, "from_step": came_from, "reason": reason}
        self.log.write(row)
        self.reporter.say(
            f"step {came_from}: {reason}; rolled back to step {self.step} and skipped the "
            f"{came_from - self.step} batches since"
        )
        self._clock = time.perf_counter()

    def _place(self, batch: dict[str, np.ndarray]) -> Batch:
        """This process's rows as its part of a global array."""
        sharding = self.layout.sharding("batch", "length")
        return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def _check_balance(experiment: Experiment) -> None:
    channels = [block.channel for block in experiment.model.blocks()]
    balanced = any(isinstance(channel, MoEConfig) and channel.balance_rate > 0 for channel in channels)
    if balanced and experiment.optimizer.kind == "schedule_free":
        raise ValueError(
            "optimizer.kind=schedule_free evaluates an average of the parameters, in which the selection biases of "
            "moe.balance_rate have no part: take another optimizer, or balance by moe.load_loss"
        )
