"""`jaxllm train` in two processes on one machine: the run that one process makes."""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

import pytest
from several_processes import Together

from jaxllm.config import load_experiment
from jaxllm.pipeline.pretrain import pretrain
from jaxllm.training.experiment import Experiment
from jaxllm.training.job import Silent

EXPERIMENT = """
from jaxllm.data.config import DataConfig
from jaxllm.models import AttentionConfig, MLPConfig, ModelConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.tokenizers.config import TokenizerConfig
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.optimizers import OptimizerConfig


def experiment():
    attention = AttentionConfig(num_heads=4, num_kv_heads=4)
    mlp = MLPConfig(d_ff=32, activation="silu", gated=True)
    return Experiment(
        name="numbers",
        model=ModelConfig(context_length=32, d_model=16, num_layers=1, attention=attention, mlp=mlp),
        tokenizer=TokenizerConfig(kind="byte"),
        data=DataConfig(path="TEXT"),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
        training=TrainingConfig(steps=3, batch_size=8, eval_every=0),
        checkpoints=CheckpointConfig(every=10),
        mesh=MeshConfig(data=1, fsdp=2, tensor=4),
    )
"""


def rows(directory):
    logged = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("loss"), row.get("val_bpb")) for row in logged if "event" not in row]


@pytest.mark.long
def test_two_processes_make_the_run_of_one(tmp_path):
    """Each has one part of the batch, whose parameters are split over its four devices."""
    text = tmp_path / "numbers.txt"
    text.write_text("".join(f"{n} and {n + 1} make {2 * n + 1}. " for n in range(600)))
    file = tmp_path / "numbers.py"
    file.write_text(EXPERIMENT.replace("TEXT", str(text)))
    directory = tmp_path / "run"
    command = [sys.executable, "-m", "jaxllm", "train", str(file), "--run", str(directory)]
    ended = Together([command, command], devices=4).wait()
    assert [each.status for each in ended] == [0, 0], ended
    assert "step 3 of 3" in ended[0].said and "validation loss" in ended[0].said
    assert "step 3" not in ended[1].said, "one speaks for all"
    assert {"config.json", "metrics.jsonl", "time.jsonl", "tokenizer", "data"} <= {p.name for p in directory.iterdir()}
    alone = tmp_path / "alone"
    pretrain(load_experiment(str(file), Experiment), alone, Silent())
    np.testing.assert_allclose(
        np.array(rows(directory), float), np.array(rows(alone), float), rtol=1e-5, equal_nan=True
    )
