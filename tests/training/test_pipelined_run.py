"""A run through a pipeline: the losses of a run without, and checkpoints that know of no mesh."""

from dataclasses import replace

import numpy as np

from jaxllm.models import AttentionConfig
from jaxllm.parallel.mesh import MeshConfig
from jaxllm.parallel.pipeline import PipelineConfig
from tests.training import tiny

MODEL = replace(tiny.MODEL, num_layers=4, attention=AttentionConfig(num_heads=2))


def experiment(schedule: str = "1f1b", accumulation: int = 4, **mesh: int):
    config = tiny.experiment(6, 3, model=MODEL, mesh=MeshConfig(**mesh), accumulation=accumulation)
    return replace(config, pipeline=PipelineConfig(schedule=schedule))


def losses(directory):
    return [row["loss"] for row in tiny.rows(directory) if "loss" in row]


def test_a_run_through_a_pipeline_goes_on_without_and_its_losses_are_those_of_none(tmp_path):
    plain = experiment(accumulation=1, data=8)
    alone, _ = tiny.train(tmp_path / "alone", plain)
    _, reporter = tiny.train(
        tmp_path / "piped", experiment("interleaved", data=2, tensor=2, pipeline=2), tiny.Batches(stopped_at=3)
    )
    assert reporter.heard("pipeline=2")
    piped, reporter = tiny.train(tmp_path / "piped", plain)
    assert reporter.heard("resuming at step 4 of 6")
    np.testing.assert_allclose(losses(tmp_path / "piped"), losses(tmp_path / "alone"), rtol=1e-5)
    assert len(losses(tmp_path / "piped")) == 6
    np.testing.assert_allclose(piped.val_loss, alone.val_loss, rtol=1e-5)
