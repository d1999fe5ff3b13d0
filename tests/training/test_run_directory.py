"""Who may write to a run's directory, and what may change between its sessions."""

import json
import os
import stat
from dataclasses import replace

import pytest
import tiny

from jaxllm.models import ModelConfig, RopeConfig
from jaxllm.training.experiment import CONFIG_VERSION
from jaxllm.training.optimizers import OptimizerConfig
from jaxllm.training.run_directory import RunDirectory, read_config

CONFIG = tiny.experiment()


def test_what_is_written_is_read_back(tmp_path):
    with RunDirectory(tmp_path / "a" / "run") as run:
        assert run.settle_config(CONFIG) == CONFIG
        assert read_config(run.config_file) == CONFIG
        assert [run.checkpoints.name, run.tokenizer.name, run.data.name] == ["checkpoints", "tokenizer", "data"]


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    with RunDirectory(tmp_path):
        with pytest.raises(
            ValueError, match=rf"another run \(process {os.getpid()}\) is using {tmp_path}: wait for it"
        ):
            RunDirectory(tmp_path)
        with pytest.raises(ValueError, match="another run"):
            RunDirectory(tmp_path)
    with RunDirectory(tmp_path) as run:
        assert (run.path / "lock").read_text() == str(os.getpid())


def test_a_lock_file_left_behind_does_not_matter(tmp_path):
    (tmp_path / "lock").write_text("123456789 of old, with a longer text than any number")
    with RunDirectory(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_directory_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError, match=rf"run directory {tmp_path}/file/run cannot be written \(.*\): choose another"
    ):
        RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="cannot be written"):
        RunDirectory(tmp_path / "file")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_cannot_be_written(tmp_path):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\)"):
        RunDirectory(tmp_path / "run")


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path):
    (tmp_path / "lock").symlink_to("/dev/full")
    with pytest.raises(ValueError, match="cannot be written"):
        RunDirectory(tmp_path)


def test_a_config_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "config.json.tmp").mkdir()
    with RunDirectory(tmp_path) as run, pytest.raises(ValueError, match=r"cannot be written \(Is a directory\)"):
        run.settle_config(CONFIG)


def test_what_defines_the_run_must_stay(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.settle_config(CONFIG)
        before = run.config_file.read_bytes()
        other = replace(
            CONFIG,
            model=replace(CONFIG.model, d_model=32),
            optimizer=replace(CONFIG.optimizer, learning_rate=0.5, kind="lion"),
            training=replace(CONFIG.training, seed=7, steps=99),
        )
        with pytest.raises(ValueError) as caught:
            run.settle_config(other)
        assert str(caught.value).splitlines() == [
            f"{tmp_path} holds a run with another configuration:",
            "  model.d_model: was 16, is 32",
            "  optimizer.kind: was 'adamw', is 'lion'",
            "  optimizer.learning_rate: was 0.01, is 0.5",
            "  training.seed: was 0, is 7",
            "resume it with its own settings, or start a new run with --run DIR",
        ]
        assert run.config_file.read_bytes() == before


def test_how_long_and_where_it_runs_may_change(tmp_path):
    longer = replace(
        CONFIG,
        name="another name",
        training=replace(CONFIG.training, steps=99, eval_every=7),
        checkpoints=replace(CONFIG.checkpoints, every=9, keep_last=4),
        recovery=replace(CONFIG.recovery, max_rollbacks=50),
        mesh=replace(CONFIG.mesh, fsdp=4),
    )
    with RunDirectory(tmp_path) as run:
        run.settle_config(CONFIG)
        assert run.settle_config(longer) == longer
        assert read_config(run.config_file) == longer


def test_a_vocabulary_size_left_open_takes_the_recorded_one(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.settle_config(CONFIG)
        assert run.settle_config(replace(CONFIG, model=replace(CONFIG.model, vocab_size=0))) == CONFIG


def test_a_config_of_a_newer_version_is_refused(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.settle_config(CONFIG)
        content = json.loads(run.config_file.read_text())
        content |= {"version": CONFIG_VERSION + 1, "something": "new"}
        run.config_file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{tmp_path}/config.json was written by a newer jaxllm: config version 3"):
            run.settle_config(CONFIG)
        assert json.loads(run.config_file.read_text()) == content


def test_a_config_of_version_1_is_read(tmp_path):
    attention = replace(CONFIG.model.attention, qk_norm="shared", rope=RopeConfig(theta=500.0))
    config = replace(CONFIG, model=replace(CONFIG.model, attention=attention))
    with RunDirectory(tmp_path) as run:
        run.settle_config(config)
        content = json.loads(run.config_file.read_text())
        old = content["model"]["attention"]
        old |= {"rope_theta": old.pop("rope")["theta"], "qk_norm": True}
        run.config_file.write_text(json.dumps(content | {"version": 1}))
        assert run.settle_config(config) == config


@pytest.mark.parametrize(
    "content, complaint", [("{", "is not JSON"), ('{"version": 1, "modle": {}}', "did you mean model")]
)
def test_a_config_that_is_none_is_named(tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/config.json.*{complaint}"):
        read_config(tmp_path / "config.json")


def test_a_directory_without_config_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is no run directory: it holds no config.json"):
        read_config(tmp_path / "config.json")


def test_every_field_goes_to_json_and_back(tmp_path):
    unusual = replace(
        CONFIG,
        model=ModelConfig(vocab_size=100, dropout=0.25),
        optimizer=OptimizerConfig(kind="schedule_free", schedule="wsd", warmup_steps=3),
    )
    with RunDirectory(tmp_path) as run:
        run.settle_config(unusual)
        assert read_config(run.config_file) == unusual
