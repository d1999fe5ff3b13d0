"""A training job small enough to run in a second: text with something to learn, and batches with a position."""

import json
import signal
from pathlib import Path

import jax
import numpy as np

from jaxllm.data.config import DataConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig, decoder_spec
from jaxllm.training.checkpoints import Checkpoints, flatten
from jaxllm.training.experiment import CheckpointConfig, Experiment, RecoveryConfig, TrainingConfig
from jaxllm.training.job import Job, Outcome, Silent, pretraining_objective
from jaxllm.training.loop import Trainer
from jaxllm.training.optimizers import OptimizerConfig

MODEL = ModelConfig(
    vocab_size=64,
    context_length=16,
    d_model=16,
    num_layers=2,
    attention=AttentionConfig(num_heads=2, num_kv_heads=1),
    mlp=MLPConfig(d_ff=32, activation="silu", gated=True),
)
TIMING = {"seconds", "tokens_per_second", "mfu", "input_stall"}


def experiment(
    steps=12, every=4, *, model=MODEL, optimizer=None, checkpoints=None, recovery=None, mesh=None, **training
) -> Experiment:
    extra = {} if mesh is None else {"mesh": mesh}
    return Experiment(
        name="tiny",
        model=model,
        # Signals that come while a batch is made come in its own step then.
        data=DataConfig(device_prefetch=0),
        optimizer=optimizer or OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        training=TrainingConfig(**{"steps": steps, "batch_size": 8, "eval_every": 0, **training}),
        checkpoints=CheckpointConfig(**{"every": every, **(checkpoints or {})}),
        recovery=recovery or RecoveryConfig(),
        **extra,
    )


def batch(seed: int, rows: int = 8, length: int = 16, vocab: int = 64) -> dict[str, np.ndarray]:
    """Two packed documents a row; each token is the one before plus a step that the document keeps."""
    random = np.random.default_rng(seed)
    half = length // 2
    start, stride = random.integers(0, vocab, (2, rows, 2, 1))
    tokens = (start + (1 + stride % 3) * np.arange(half + 1)) % vocab
    flat = lambda x: np.ascontiguousarray(x.reshape(rows, length)).astype(np.int32)  # noqa: E731
    return {
        "tokens": flat(tokens[..., :-1]),
        "targets": flat(tokens[..., 1:]),
        "weights": np.ones((rows, length), np.float32),
        "segment_ids": flat(np.broadcast_to([[[1], [2]]], (rows, 2, half))),
        "positions": flat(np.broadcast_to(np.arange(half), (rows, 2, half))),
    }


class Batches:
    """Batch n is made from seed n.

    `poison` replaces the weights of some batches, as a broken document would. The targets of `spoiled` ones follow from
    nothing, as on a page of noise. A signal comes while batch `stopped_at` is made.
    """

    def __init__(self, poison=None, *, spoiled=(), stopped_at=None, by=signal.SIGTERM):
        self.next = 0
        self.poison, self.spoiled, self.stopped_at, self.by = poison or {}, set(spoiled), stopped_at, by

    def __next__(self):
        if self.next == self.stopped_at:
            signal.raise_signal(self.by)
        result = batch(self.next)
        if self.next in self.poison:
            result["weights"][:] = self.poison[self.next]
        if self.next in self.spoiled:
            result["targets"][:] = (result["tokens"] + 32) % 64
        self.next += 1
        return result

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


class Recorder(Silent):
    """Keeps what the loop tells a person."""

    def __init__(self):
        self.said = []
        self.rows = []

    def say(self, message):
        self.said.append(message)

    def progress(self, row, steps):
        self.rows.append(row)

    def heard(self, *words):
        """Whether one message holds all of these."""
        return any(all(word in message for word in words) for message in self.said)


def job(config: Experiment, batches: Batches | None = None) -> Job:
    return Job(
        experiment=config,
        spec=decoder_spec(config.model),
        objective=pretraining_objective(config.model, config.training),
        batches=batches or Batches(),
        validation=[batch(1000), batch(1001)],
        token_bytes=np.ones(config.model.vocab_size, np.int32),
        flops_per_token=1e6,
        peak_flops=None,
    )


def train(directory: Path, config: Experiment, batches: Batches | None = None, **options) -> tuple[Outcome, Recorder]:
    directory.mkdir(exist_ok=True)
    reporter = Recorder()
    return Trainer(job(config, batches), directory, reporter, **options).run(), reporter


def rows(directory: Path) -> list[dict]:
    """The log, without what no two runs have in common: when they began, and how long things took."""
    logged = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in TIMING}
        for row in logged
        if row.get("event") not in ("start", "goodput")
    ]


def newest_state(directory: Path, config: Experiment) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by name."""
    trainer = Trainer(job(config), directory, Silent())
    with Checkpoints(directory / "checkpoints", config.checkpoints) as checkpoints:
        return jax.device_get(flatten(checkpoints.restore(trainer.program.state).state))


def assert_same_run(one: Path, other: Path, config: Experiment) -> None:
    """Bit for bit: the losses of all steps, each step once and in order, evaluations, events, and the final state."""
    assert rows(one) == rows(other)
    left, right = newest_state(one, config), newest_state(other, config)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name
