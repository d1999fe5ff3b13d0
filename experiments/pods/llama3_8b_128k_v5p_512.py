"""Llama 3.1 8B at its whole context of 131,072 tokens on a v5p-512, which is 256 chips: eight of them share each row.

For attention they exchange tokens for heads (Ulysses): each has four heads of the whole row, for the flash kernel.

    jaxllm plan pods/llama3_8b_128k_v5p_512 --topology v5p-512
    jaxllm train pods/llama3_8b_128k_v5p_512 --data.path=gs://BUCKET/corpus

At 10,000 steps it sees 42 billion tokens, enough to stretch a model that was trained on shorter rows.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/llama3_8b_128k_v5p_512",
        model=replace(preset("llama3.1-8b"), compute_dtype="bfloat16"),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=500),
        training=TrainingConfig(steps=10_000, batch_size=32, remat="full", eval_every=500),
        checkpoints=CheckpointConfig(every=250),
        mesh=MeshConfig(data=1, fsdp=32, context=8, context_form="ulysses"),
    )
