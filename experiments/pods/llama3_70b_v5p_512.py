"""Llama 3 70B on a v5p-512, which is 256 chips: a row of 8,192 tokens on each, two million tokens a step.

    jaxllm plan pods/llama3_70b_v5p_512 --topology v5p-512
    jaxllm train pods/llama3_70b_v5p_512 --data.path=gs://BUCKET/corpus

At 670,000 steps it sees 1.4 trillion tokens, 20 for each parameter.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/llama3_70b_v5p_512",
        model=replace(preset("llama3-70b"), compute_dtype="bfloat16"),
        optimizer=OptimizerConfig(learning_rate=1.5e-4, warmup_steps=2000),
        training=TrainingConfig(steps=670_000, batch_size=256, remat="full", eval_every=5000),
        checkpoints=CheckpointConfig(every=500),
        mesh=MeshConfig(data=1, fsdp=256),
    )
