"""What a run directory stands for: the newest whole checkpoint's evaluated parameters, read without a trace."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxllm import config as configs
from jaxllm.training.checkpoints import CheckpointError, Mismatch, flatten
from jaxllm.training.shipped import checkpoint_steps, restore_params

CONFIG = tiny.experiment(checkpoints={"keep_last": 100}, ema_decay=0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    tiny.train(directory, CONFIG)
    (directory / "config.json").write_text(configs.to_json(CONFIG))
    return directory


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def listing(directory):
    return sorted(str(path) for path in directory.rglob("*"))


def test_the_newest_is_taken_and_nothing_is_written(run):
    before = listing(run)
    experiment, params, step = restore_params(run)
    assert (experiment, step) == (CONFIG, 12)
    state = tiny.newest_state(run, CONFIG)
    for name, value in flatten(params).items():
        np.testing.assert_array_equal(value, state[f"ema.{name}"])
    assert all(value.sharding.device_set == {jax.devices()[0]} for value in jax.tree.leaves(params))
    assert listing(run) == before


def test_a_step_can_be_asked_for(run):
    _, params, step = restore_params(run, step=4)
    assert step == 4
    assert not np.array_equal(params.embedding, restore_params(run)[1].embedding)
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 5; it has \[0, 4, 8, 12\]"):
        restore_params(run, step=5)


def test_a_checkpoint_being_written_is_not_seen(run):
    os.rename(run / "checkpoints/12", run / "checkpoints/12.orbax-checkpoint-tmp")
    assert checkpoint_steps(run / "checkpoints") == [0, 4, 8]
    assert restore_params(run)[2] == 8


def test_a_damaged_one_is_told_of_and_the_one_before_taken(run, caplog):
    shutil.rmtree(run / "checkpoints/12/ema")
    before = listing(run)
    assert restore_params(run)[2] == 8
    assert "checkpoint 12 of" in caplog.text
    assert "is damaged" in caplog.text
    assert listing(run) == before, "reading moves nothing"
    with pytest.raises(CheckpointError, match="checkpoint 12 .* is damaged"):
        restore_params(run, step=12)


def test_where_none_is_whole(run):
    for step in (0, 4, 8, 12):
        (run / f"checkpoints/{step}/progress/metadata").unlink()
    with pytest.raises(CheckpointError, match=r"no usable checkpoint: it has steps \[0, 4, 8, 12\]"):
        restore_params(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match="none yet"):
        restore_params(run)


def test_a_config_that_was_changed_by_hand_is_seen(run):
    content = json.loads((run / "config.json").read_text())
    content["model"]["d_model"] = 32
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        Mismatch, match=r"different: embedding is float32\[64, 16\] in the checkpoint, float32\[64, 32\]"
    ):
        restore_params(run)


def test_no_run(tmp_path):
    with pytest.raises(ValueError, match="is no run directory"):
        restore_params(tmp_path)
