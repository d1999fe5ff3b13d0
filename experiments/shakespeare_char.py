"""nanoGPT's smallest public baseline: a character model of tiny Shakespeare, on a CPU.

    jaxllm train shakespeare_char --data.path FILE

nanoGPT's recipe (4 layers, 4 heads, width 128, context 64, 2,000 steps of 12 rows: 1,536,000 tokens) ends at a
validation loss of 1.88 on the last tenth of the text. This one has the same shape and must get there in half of the
tokens.
"""

from jaxllm.data.config import DataConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment() -> Experiment:
    return Experiment(
        name="shakespeare_char",
        model=ModelConfig(
            context_length=64,
            d_model=128,
            num_layers=4,
            attention=AttentionConfig(num_heads=4, qk_norm="shared"),
            mlp=MLPConfig(d_ff=512, activation="gelu_tanh"),
            residual_init="zero",
        ),
        tokenizer=TokenizerConfig(kind="character"),
        data=DataConfig(validation_fraction=0.1, split="tail", packing="concat"),
        optimizer=OptimizerConfig(kind="muon", learning_rate=1e-2, schedule="linear", warmup_steps=20, final_ratio=0.0),
        training=TrainingConfig(steps=1000, batch_size=12, eval_every=250),
        checkpoints=CheckpointConfig(every=500),
    )
