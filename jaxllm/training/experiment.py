"""Everything that defines a run: the value an experiment file returns and `config.json` holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxllm.config import MIGRATIONS
from jaxllm.data.config import DataConfig
from jaxllm.models.config import ModelConfig
from jaxllm.models.config.migrations import model_from_version_1
from jaxllm.models.config.remat import parse_remat
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.pipeline.config import PipelineConfig
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.optimizers import OptimizerConfig
from jaxllm.training.precision import PrecisionConfig

CONFIG_VERSION = 2
MIGRATIONS[1] = lambda run: {**run, "model": model_from_version_1(run.get("model", {}))}


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how much at a time, and what is watched."""

    steps: int = 1000
    """Optimizer steps in all."""
    batch_size: int = 32
    """Rows of context_length tokens in one optimizer step, over all devices and microbatches."""
    accumulation: int = 1
    """Microbatches that a step is computed in: one after another, to save memory, or as they go through a pipeline."""
    seed: int = 0
    """Seed of the initial parameters and of dropout."""
    grad_clip: float = 1.0
    """Gradients with a larger global norm are scaled down to it; 0 turns clipping off."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps the softmax's normalizer near 1 (PaLM uses 1e-4)."""
    multi_token_weight: float = 0.3
    """Weight of the multi-token modules' mean loss, where the model has any (DeepSeek-V3 begins with 0.3)."""
    multi_token_last_weight: float = 0.1
    """What that weight is later on (DeepSeek-V3 ends with 0.1)."""
    multi_token_switch: float = 0.68
    """Part of the steps after which it is (10 of DeepSeek-V3's 14.8 trillion tokens)."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the parameters with this decay and evaluate it; 0 keeps none."""
    remat: str = "none"
    """What the backward pass keeps of each layer: none (recomputes nothing), full, every:K, sqrt, dots, attention,
    names:A,B, offload:A,B, offload_dots; over the depth, full*8 + none (docs/memory_and_precision.md)."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory (pinned_host) between updates."""
    eval_every: int = 100
    """Steps between evaluations on the validation part; 0 evaluates at the end only."""
    eval_batches: int = 0
    """Batches of an evaluation; 0 means the whole validation part."""

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size={self.batch_size} must be a multiple of training.accumulation={self.accumulation}"
            )
        parse_remat(self.remat)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay must be in [0, 1), got {self.ema_decay}")
        if not 0 <= self.multi_token_switch <= 1:
            raise ValueError(f"training.multi_token_switch must be in [0, 1], got {self.multi_token_switch}")
        weights = ("z_loss", "multi_token_weight", "multi_token_last_weight")
        for name in ("grad_clip", "eval_every", "eval_batches", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept; one is always written at the start and at the end."""

    every: int = 500
    """Steps between checkpoints."""
    keep_last: int = 2
    """How many of the newest are kept."""
    keep_best: int = 1
    """How many of those with the lowest validation loss are kept."""
    keep_every: int = 0
    """Also keep each checkpoint whose step is a multiple of this; 0 keeps none for that reason."""
    asynchronous: bool = True
    """Write in the background while training goes on."""
    local_every: int = 0
    """Steps between checkpoints on each host's own disk, to go back to quickly; 0 writes none."""
    local_directory: str = ""
    """Where these lie, on a fast disk or in memory (/dev/shm/jaxllm); each process keeps its own part there."""
    slow_seconds: float = 60.0
    """A checkpoint that holds up training for longer is told of."""

    def __post_init__(self):
        if self.local_every < 0:
            raise ValueError(f"checkpoints.local_every must not be negative, got {self.local_every}")
        if self.local_every and not self.local_directory:
            raise ValueError(
                f"checkpoints.local_every={self.local_every} needs checkpoints.local_directory, such as /dev/shm/jaxllm"
            )
        if self.every < 1 or self.keep_last < 1:
            raise ValueError(
                f"checkpoints.every and checkpoints.keep_last must be at least 1, got {self.every} and {self.keep_last}"
            )
        if self.keep_best < 0 or self.keep_every < 0:
            raise ValueError("checkpoints.keep_best and checkpoints.keep_every must not be negative")


@dataclass(frozen=True)
class RecoveryConfig:
    """When a run goes back to its last good checkpoint and leaves out the batches that led astray.

    A step whose loss or gradient norm is not finite never touches the parameters. The run rolls back after
    `max_bad_steps` of these in a row, or when the loss stays more than max(spike_sigmas * s, spike_rise) above m for
    `spike_patience` steps in a row, m and s being mean and standard deviation of the last `window` good losses.
    """

    max_bad_steps: int = 5
    """Non-finite steps in a row that trigger a rollback."""
    window: int = 50
    """Good losses that the spike rule compares with; it is silent until it has so many."""
    spike_sigmas: float = 8.0
    """Standard deviations above the mean that count as a spike; 0 turns the spike rule off."""
    spike_rise: float = 1.0
    """Smallest rise in nats that counts as a spike."""
    spike_patience: int = 3
    """Steps in a row above the line that trigger a rollback."""
    max_rollbacks: int = 5
    """Rollbacks after which the run gives up with an error."""

    def __post_init__(self):
        if self.max_bad_steps < 1 or self.spike_patience < 1 or self.window < 2:
            raise ValueError("recovery: max_bad_steps and spike_patience must be at least 1, window at least 2")


@dataclass(frozen=True)
class OuterConfig:
    """Replicas along the mesh's data axis that train apart and meet now and then (DiLoCo); for slow networks."""

    every: int = 0
    """Inner steps between meetings (DiLoCo: 500); 0 keeps all replicas together in every step."""
    learning_rate: float = 0.7
    """Of the outer SGD, whose gradient is the mean of what the replicas moved."""
    momentum: float = 0.9
    """Its Nesterov momentum; 0 is plain SGD."""

    def __post_init__(self):
        if self.every < 0 or self.learning_rate <= 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "outer: every must not be negative, learning_rate above 0 and momentum in [0, 1), got "
                f"{self.every}, {self.learning_rate} and {self.momentum}"
            )


@dataclass(frozen=True)
class FaultConfig:
    """What is watched for while a run goes on: hosts that stop, hang, lag or compute wrongly."""

    agree_every: int = 1
    """Steps between the moments at which the hosts of a run tell each other of a request to stop."""
    hang_factor: float = 20.0
    """A step that takes so many times the median step counts as hanging; 0 turns the watchdog off."""
    hang_minimum: float = 120.0
    """Seconds that any step may take."""
    hang_seconds: float = 3600.0
    """Seconds that anything else may take: compilation, evaluation, a checkpoint, the first steps."""
    hang_exit: bool = False
    """After dumping the stacks of a hang, end the process with a status that launchers answer by starting again."""
    pace_every: int = 100
    """Steps between reports of the slowest host, in runs of several; 0 reports none."""
    digest_every: int = 0
    """Steps between comparisons of the replicas of parameters and optimizer state, bit for bit; 0 compares never."""
    replay_every: int = 0
    """Steps between steps that are computed twice and compared; such a step needs memory for a second state."""
    on_corruption: Literal["roll_back", "stop"] = "roll_back"
    """What follows when replicas or the two results differ."""
    maintenance: Literal["auto", "on", "off"] = "auto"
    """Ask the machine's metadata server whether it is to be taken away; auto does so on Google Cloud."""

    def __post_init__(self):
        if self.agree_every < 1:
            raise ValueError(f"faults.agree_every must be at least 1, got {self.agree_every}")
        for name in ("hang_factor", "pace_every", "digest_every", "replay_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"faults.{name} must not be negative, got {getattr(self, name)}")
        for name in ("hang_minimum", "hang_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"faults.{name} must be above 0 seconds, got {getattr(self, name)}")


@dataclass(frozen=True)
class Experiment:
    """One run, complete: replaying it on the same devices gives the same losses."""

    name: str = "experiment"
    """Names the run directory, runs/NAME, where none is given."""
    model: ModelConfig = ModelConfig()
    """Architecture."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Text to ids."""
    data: DataConfig = DataConfig()
    """Text and how it becomes batches."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Update rule and learning-rate schedule."""
    training: TrainingConfig = TrainingConfig()
    """Length, batch and evaluation."""
    precision: PrecisionConfig = PrecisionConfig()
    """Types of parameters, optimizer state and products."""
    outer: OuterConfig = OuterConfig()
    """Whether replicas train apart."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """What is saved and kept."""
    recovery: RecoveryConfig = RecoveryConfig()
    """What happens when the loss explodes."""
    faults: FaultConfig = FaultConfig()
    """What is watched for besides."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    pipeline: PipelineConfig = PipelineConfig()
    """How the ranks of mesh.pipeline take turns."""
    version: int = CONFIG_VERSION
    """Version of these fields; a newer one than this jaxllm knows is refused."""
