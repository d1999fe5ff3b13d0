"""Llama 3 8B on 64 TPU v5e chips, half a million tokens a step. Four chips share the heads of a row, for the scores of
plain attention over 8,192 tokens.

    jaxllm plan pods/llama3_8b_v5e_64 --topology v5e-64
    jaxllm train pods/llama3_8b_v5e_64 --data.path=gs://BUCKET/corpus

At 300,000 steps it sees 157 billion tokens, 20 for each parameter.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/llama3_8b_v5e_64",
        model=replace(preset("llama3-8b"), compute_dtype="bfloat16"),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=2000),
        training=TrainingConfig(steps=300_000, batch_size=64, accumulation=4, remat="full", eval_every=5000),
        checkpoints=CheckpointConfig(every=1000),
        mesh=MeshConfig(data=1, fsdp=16, tensor=4),
    )
