"""Llama 3 405B on a v5p-4096, which is 2,048 chips: eight of them share each row of 8,192 tokens.

    jaxllm plan pods/llama3_405b_v5p_4096 --topology v5p-4096
    jaxllm train pods/llama3_405b_v5p_4096 --data.path=gs://BUCKET/corpus

At 1,200,000 steps it sees 2.5 trillion tokens; Meta's run saw 15.6.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/llama3_405b_v5p_4096",
        model=replace(preset("llama3-405b"), compute_dtype="bfloat16", context_length=8192),
        optimizer=OptimizerConfig(learning_rate=8e-5, warmup_steps=8000),
        training=TrainingConfig(steps=1_200_000, batch_size=256, remat="full", eval_every=5000),
        checkpoints=CheckpointConfig(every=250),
        mesh=MeshConfig(data=1, fsdp=256, tensor=8),
    )
