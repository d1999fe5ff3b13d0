"""DeepSeek-V3 (671B, 37B active) on a v5p-4096, which is 2,048 chips: eight of them share each row of 4,096 tokens.

    jaxllm plan pods/deepseek_v3_v5p_4096 --topology v5p-4096
    jaxllm train pods/deepseek_v3_v5p_4096 --data.path=gs://BUCKET/corpus

At 3,500,000 steps it sees 3.7 trillion tokens; DeepSeek's run saw 14.8.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/deepseek_v3_v5p_4096",
        model=replace(preset("deepseek-v3"), compute_dtype="bfloat16", context_length=4096),
        optimizer=OptimizerConfig(learning_rate=2.2e-4, warmup_steps=2000),
        training=TrainingConfig(steps=3_500_000, batch_size=256, remat="full", eval_every=5000),
        checkpoints=CheckpointConfig(every=250),
        mesh=MeshConfig(data=1, fsdp=256, tensor=8),
    )
