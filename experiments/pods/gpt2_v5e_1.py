"""GPT-2 of 124 million parameters on one TPU v5e chip: ten billion tokens in steps of half a million, as nanoGPT has
them. The vocabulary is padded to a multiple of 128.

    jaxllm plan pods/gpt2_v5e_1 --topology v5e-1
    jaxllm train pods/gpt2_v5e_1 --data.path=gs://BUCKET/corpus

At 19,000 steps it sees 10 billion tokens.
"""

from dataclasses import replace

from jaxllm.models.presets import preset
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="pods/gpt2_v5e_1",
        model=replace(preset("gpt2"), compute_dtype="bfloat16", vocab_size=50_304),
        optimizer=OptimizerConfig(learning_rate=6e-4, warmup_steps=700),
        training=TrainingConfig(steps=19_000, batch_size=512, accumulation=128, eval_every=500),
        checkpoints=CheckpointConfig(every=1000),
        mesh=MeshConfig(data=1),
    )
