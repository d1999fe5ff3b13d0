"""Mixtral 8x7B on a v5p-256, which is 128 chips: a row of 4,096 tokens on each.

    jaxllm plan pods/mixtral_8x7b_v5p_256 --topology v5p-256
    jaxllm train pods/mixtral_8x7b_v5p_256 --data.path=gs://BUCKET/corpus

At 1,000,000 steps it sees half a trillion tokens.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/mixtral_8x7b_v5p_256",
        model=replace(preset("mixtral-8x7b"), compute_dtype="bfloat16", context_length=4096),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=2000),
        training=TrainingConfig(steps=1_000_000, batch_size=128, remat="full", eval_every=5000),
        checkpoints=CheckpointConfig(every=1000),
        mesh=MeshConfig(data=1, fsdp=128),
    )
