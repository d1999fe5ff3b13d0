"""The one training loop.

A step is dispatched before the metrics of the step before it are read, so the device never waits for the host. All else
(evaluation, checkpoints, going back after a divergence, stopping on request) happens between steps, when it is due.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxllm import config as configs
from jaxllm.models.config import MoEConfig
from jaxllm.models.declare import count
from jaxllm.objectives.next_token import Batch, Metrics
from jaxllm.parallel.local_rows import find_readers, place_rows
from jaxllm.parallel.sharding import make_layout
from jaxllm.training.checkpoints import Checkpoints, flatten
from jaxllm.training.device_feed import DeviceFeed, devices_wait
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import Event, Job, Outcome, Reporter, describe_plan
from jaxllm.training.metrics import MetricsLog, Unlogged
from jaxllm.training.optimizers import evaluation_params
from jaxllm.training.profiling import Profile
from jaxllm.training.program import step_program
from jaxllm.training.recovery import Watch
from jaxllm.training.replay import Replay, Replayed, step_twice
from jaxllm.training.replicas import SilentCorruption, find_differences
from jaxllm.training.session import Session
from jaxllm.training.state import TrainState
from jaxllm.training.step import make_evaluation
from jaxllm.training.tiers import Tiers

# Of mixtures of experts, of multi-token modules and of float16.
REPORTED_WHERE_PRESENT = ("router_loss", "max_load", "dropped", "multi_token", "loss_scale")


class Trainer:
    """The loop's state: a training state on a mesh, a position in the data, logs and checkpoints of one run
    directory."""

    def __init__(
        self,
        job: Job,
        directory: Path,
        reporter: Reporter,
        *,
        checkpoints: epath.PathLike | None = None,
        profile: bool = False,
        began: float | None = None,
    ):
        """`checkpoints`: where these lie, by default in `directory`. `began`: when this session started, in seconds
        since the epoch; now by default."""
        experiment = job.experiment
        config = experiment.training
        self.job, self.directory, self.reporter, self.config = job, directory, reporter, config
        self.faults, self.saving = experiment.faults, experiment.checkpoints
        self.saved_in = directory / "checkpoints" if checkpoints is None else checkpoints
        self.layout = make_layout(experiment.mesh)
        _check_balance(experiment)
        _check_schedule_free(experiment)
        self._readers = cache(lambda rows: find_readers(self.layout.sharding("batch", "length"), rows))
        self.session = Session(directory, experiment.faults, reporter, began=began)
        self.events = (Event("evaluation", config.eval_every, lambda state, step: self._evaluate()), *job.events)
        self.program = step_program(experiment, job.spec, job.objective, self.layout)
        self.evaluate_batch = make_evaluation(job.objective, self.layout, job.token_bytes)
        self.watch = Watch(experiment.recovery)
        self.profile = Profile(directory / "profile", enabled=profile)
        self.step = 0
        self.val: dict[str, float] = {}
        self._evaluated_at = -1
        self._corruptions = 0
        self.compile_seconds = 0.0
        self._pending: tuple[int, Metrics, dict[str, float]] | None = None
        self._clock = 0.0

    def run(self) -> Outcome:
        logs = jax.process_index() == 0
        with (
            self.session,
            Tiers(self.directory, self.saved_in, self.saving, self.reporter.say) as self.checkpoints,
            MetricsLog(self.directory) if logs else Unlogged() as self.log,
            DeviceFeed(self.job.batches, self._place, self.job.experiment.data.device_prefetch) as self.feed,
        ):
            with self.session.during("compile"):
                self._compile()
            with self.session.during("restore"):
                self._resume_or_start()
            self.session.starts(self.step)
            self._clock = time.perf_counter()
            stop = None
            while self.step < self.config.steps and stop is None:
                self._dispatch()
                # Asked once: a request that comes in later is for the next step, after which it is saved.
                stop = self.session.stop_for(self.step)
                self._settle(stopping=stop is not None)
            self.profile.stop()
            with self.session.during("checkpoint"):
                self.checkpoints.wait()
            if row := self.session.closing_row(self.step):
                self.log.write(row)
            if stop is not None and self.step < self.config.steps:
                saved = self.checkpoints.steps()[-1]
                self.reporter.say(
                    f"{stop.name} received: step {saved} of {self.config.steps} is saved; "
                    "run the same command to resume"
                )
        val = self.val.get
        stopped_by = stop.name if stop else None
        return Outcome(self.step, self.config.steps, val("val_loss"), val("val_bpb"), self.compile_seconds, stopped_by)

    def replay(self, start: int, steps: int) -> Iterator[Replayed]:
        """Steps after checkpoint `start` computed again (`replay.replay`); the run directory stays as it is."""
        with Checkpoints(self.saved_in, self.saving) as checkpoints:
            self._compile()
            again = Replay(self.train_step, self.program.state, self.job.batches, self._place)
            yield from again.run(self.directory, checkpoints, start, steps)

    # Before the first step

    def _compile(self) -> None:
        """Compile ahead of time, so that the plan can show what the step needs and the first step is as quick as the
        rest."""
        start = time.perf_counter()
        self.train_step = self.program.lower().compile()
        self.compile_seconds = time.perf_counter() - start
        self.reporter.say(describe_plan(self.job, self.layout, self.train_step.memory_analysis(), self.compile_seconds))

    def _resume_or_start(self) -> None:
        restored = self.checkpoints.restore(self.program.state)
        if restored is None:
            self.log.truncate(0)  # of a run that was killed before its first checkpoint was whole
            self.state = self.program.initial(self.config.seed)
            self.log.write({"event": "start", "step": 0, "time": time.time(), "parameters": count(self.job.spec)})
            self._save()
            return
        for line in restored.damaged:
            self.reporter.say(line)
        self._take(restored.state, restored.progress)
        self.feed.set_state(restored.progress["batches"])
        self.watch.set_state(restored.progress["watch"])
        if self.step >= self.config.steps:
            self.reporter.say(f"{self.directory} is finished: step {self.step} of {self.config.steps}")
        else:
            self.log.truncate(restored.progress["metrics_bytes"])
            self.reporter.say(f"resuming at step {self.step} of {self.config.steps}")
        # Before there were other events, a checkpoint said only whether the evaluation was due.
        due = restored.progress.get("due", ["evaluation"] if restored.progress.get("evaluation_due") else [])
        for event in self.events:
            if event.name in due:
                event.act(self.state, self.step)

    def _take(self, state: TrainState, progress: dict[str, Any]) -> None:
        self.state, self.step, self.val = state, progress["step"], progress["val"]
        self._evaluated_at = -1

    # A step, and what follows it

    def _dispatch(self) -> None:
        self.profile.before(self.step)
        with self.session.during("input"):
            batch, of_input = self._next_batch()
        self.step += 1
        self._corrupt = ""
        if self._is_due(self.faults.replay_every):
            with self.session.during("check"):
                twice = step_twice(self.train_step, self.state, batch)
            self.state, metrics = twice.state, twice.metrics
            self._corrupt = "; ".join(twice.differing[:4])
        else:
            self.state, metrics = self.train_step(self.state, batch)
        self._diverged = self._read_pending()
        self._pending = (self.step, metrics, of_input)

    def _next_batch(self) -> tuple[Batch, dict[str, float]]:
        """The next batch on its devices, and what the log says of it."""
        start = time.perf_counter()
        batch = next(self.feed)
        waited = time.perf_counter() - start
        # While a step is being computed nobody but this thread waits. When it was done sooner than the batch came, the
        # devices waited too, for this long at most.
        stalled = devices_wait(self._pending and self._pending[1])
        return batch, {"input_stall": waited if stalled else 0.0, **self.job.describe_batches(self.feed.get_state())}

    def _settle(self, stopping: bool) -> None:
        """Whatever is due after the step just dispatched."""
        last = self.step == self.config.steps
        due = [event for event in self.events if last or self._is_due(event.every)]
        save_due = last or stopping or self._is_due(self.saving.every)
        local_due = not save_due and self._is_due(self.saving.local_every)
        if due or save_due or local_due:
            self._diverged = self._diverged or self._read_pending()
        if self._diverged:
            self._roll_back(self._diverged, skip_data=True)
            return
        if self.faults.digest_every and (save_due or local_due or self._is_due(self.faults.digest_every)):
            self._corrupt = self._corrupt or self._compare_replicas()
        if self._corrupt:
            self._recover_from_corruption()
            return
        if row := self.session.pace(self.step, self.state):
            self.log.write(row)
        if not stopping:
            for event in due:
                event.act(self.state, self.step)
        # The middle of a bad stretch is no place to go back to. A run that is stopped there resumes before it and sees
        # it again.
        if (save_due or local_due) and (last or not self.watch.suspicious):
            self._save(local=local_due, due=[event.name for event in due] if stopping else [])

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _read_pending(self) -> str | None:
        """Log the step dispatched before; returns the reason to roll back if there is one."""
        if self._pending is None:
            return None
        (step, metrics, of_input), self._pending = self._pending, None
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
            **of_input,
        }
        self.log.write(row)
        self.reporter.progress(row, self.config.steps)
        self.session.step_done(step)
        if not values["finite"]:
            self.log.write({"event": "skipped_step", "step": step})
            self.reporter.say(
                f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}: update left out"
            )
        # A loss scale that was too large says nothing about the run: the next is smaller.
        return self.watch.observe(values["loss"], bool(values["finite"] or values.get("overflow")))

    def _mfu(self, tokens_per_second: float) -> float | None:
        peak = self.job.peak_flops
        return tokens_per_second * self.job.flops_per_token / peak if peak else None

    def _evaluate(self) -> None:
        """Mean loss and bits per byte over the validation part, with the parameters that would be shipped."""
        with self.session.during("evaluation"):
            self.val = self._validate()
        self._evaluated_at = self.step
        row = {"step": self.step, **self.val}
        self.log.write(row)
        self.reporter.progress(row, self.config.steps)
        self._clock = time.perf_counter()

    def _validate(self) -> dict[str, float]:
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
        return {"val_loss": nll / weight, "val_bpb": nll / math.log(2) / size if size else math.nan}

    def _save(self, *, local: bool = False, due: Sequence[str] = ()) -> None:
        progress = {
            "batches": self.feed.get_state(),
            "watch": self.watch.get_state(),
            "metrics_bytes": self.log.offset(),
            "val": self.val,
            "due": list(due),
            "config": json.loads(configs.to_json(self.job.experiment)),
        }
        with self.session.during("checkpoint"):
            if local:
                self.checkpoints.save_local(self.state, progress)
            else:
                val_loss = self.val["val_loss"] if self._evaluated_at == self.step else None
                self.checkpoints.save(self.state, progress, val_loss)
        self.session.saved(self.step)
        self._clock = time.perf_counter()

    def _compare_replicas(self) -> str:
        """What differs between devices that should hold the same, empty when nothing does."""
        with self.session.during("check"):
            arrays = flatten({"params": self.state.params, "opt_state": self.state.opt_state})
            return "; ".join(str(difference) for difference in find_differences(arrays)[:4])

    def _recover_from_corruption(self) -> None:
        """The data was not at fault, so the same batches follow again."""
        self._corruptions += 1
        reason = f"silent corruption: {self._corrupt}"
        if self.faults.on_corruption == "stop" or self._corruptions > self.job.experiment.recovery.max_rollbacks:
            raise SilentCorruption(
                f"step {self.step}: {reason}. The last checkpoint was saved before; take the machine out of service, "
                "then run the same command to resume"
            )
        self._roll_back(reason, skip_data=False)

    def _roll_back(self, reason: str, *, skip_data: bool) -> None:
        """Back to the last checkpoint; with `skip_data` not back in the data: the batches since then are left out
        (PaLM, section 5.1)."""
        came_from = self.step
        with self.session.during("restore"):
            self.checkpoints.wait()
            self.state = None  # its memory is needed for the one to go back to
            restored = self.checkpoints.restore(self.program.state)
        if restored is None:
            raise FloatingPointError(f"{reason} at step {came_from}, and there is no checkpoint to go back to")
        for line in restored.damaged:
            self.reporter.say(line)
        self._pending = None
        self._take(restored.state, restored.progress)
        self.session.rolled_back(self.step)
        if skip_data:
            self.watch.rolled_back()
        else:
            self.watch.set_state(restored.progress["watch"])
            self.feed.set_state(restored.progress["batches"])
        row = {"event": "rollback", "step": self.step, "from_step": came_from, "reason": reason}
        self.log.write(row)
        since = f"skipped the {came_from - self.step} batches since" if skip_data else "repeating the steps since"
        self.reporter.say(f"step {came_from}: {reason}; rolled back to step {self.step} and {since}")
        self._clock = time.perf_counter()

    def _place(self, batch: dict[str, np.ndarray]) -> Batch:
        """This process's rows as its part of a global array."""
        sharding = self.layout.sharding("batch", "length")
        rows = len(batch["tokens"]) * self._readers(self.config.batch_size).count
        return place_rows(batch, sharding, rows, self._readers(rows))


def _check_balance(experiment: Experiment) -> None:
    channels = [block.channel for block in experiment.model.blocks()]
    balanced = any(isinstance(channel, MoEConfig) and channel.balance_rate > 0 for channel in channels)
    if balanced and experiment.optimizer.kind == "schedule_free":
        raise ValueError(
            "optimizer.kind=schedule_free evaluates an average of the parameters, in which the selection biases of "
            "moe.balance_rate have no part: take another optimizer, or balance by moe.load_loss"
        )


def _check_schedule_free(experiment: Experiment) -> None:
    stored = {experiment.precision.parameters, experiment.precision.optimizer_state}
    elsewhere = experiment.training.offload_optimizer or stored != {"float32"}
    if experiment.optimizer.kind == "schedule_free" and elsewhere:
        raise ValueError(
            "optimizer.kind=schedule_free makes the parameters to evaluate from its state: leave both in float32 and "
            "on the device (precision.parameters, precision.optimizer_state, training.offload_optimizer=false)"
        )
