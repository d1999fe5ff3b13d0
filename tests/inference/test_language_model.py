"""Models on disk: what training left, what `save` wrote, and what is neither."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxllm
from jaxllm import config as configs
from jaxllm import tokenizers
from jaxllm.inference import LanguageModel, Origin
from jaxllm.models import decoder_spec
from jaxllm.training import shipped
from jaxllm.training.checkpoints import Checkpoints
from jaxllm.training.experiment import CheckpointConfig, Experiment, TrainingConfig
from jaxllm.training.state import initial_state
from tests.buckets import play_buckets

from . import twins

CONFIG = twins.model(vocab_size=320)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(tokenizers.TokenizerConfig(kind="byte"), [])


@pytest.fixture(scope="module")
def lm(tokenizer):
    return LanguageModel(
        CONFIG, twins.parameters(CONFIG), tokenizer, Origin("small", step=7, val_loss=2.5, val_bpb=1.25)
    )


@pytest.fixture(scope="module")
def saved(lm, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small"
    jaxllm.save(lm, path)
    return path


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """A run directory with checkpoints of steps 1 and 2 whose parameters and moving averages are all different."""
    path = tmp_path_factory.mktemp("runs") / "first"
    tokenizer.save(path / "tokenizer")
    experiment = Experiment(model=CONFIG, training=TrainingConfig(ema_decay=0.9))
    (path / "config.json").write_text(configs.to_json(experiment))
    state = initial_state(decoder_spec(CONFIG), optax.sgd(0.1), 0, True)
    with Checkpoints(path / "checkpoints", CheckpointConfig()) as checkpoints:
        for step in (1, 2):
            ema = jax.tree.map(lambda x, step=step: x + step, state.params)
            checkpoints.save(state.replace(step=state.step + step, ema=ema), {})
    rows = [{"step": 1, "val_loss": 3.0, "val_bpb": 1.5}, {"step": 2, "val_loss": 2.0, "val_bpb": 1.0}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, state.params


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_saved_model_comes_back_as_it_was(lm, saved):
    loaded = jaxllm.load(saved)
    assert (loaded.config, loaded.origin) == (lm.config, lm.origin)
    assert loaded.tokenizer.fingerprint() == lm.tokenizer.fingerprint()
    assert_equal(loaded.params, lm.params)
    assert jaxllm.generate(loaded, "a", max_new_tokens=10) == jaxllm.generate(lm, "a", max_new_tokens=10)


def test_bfloat16_parameters_stay_bfloat16(lm, tmp_path):
    half = jax.tree.map(lambda x: x.astype("bfloat16"), lm.params)
    jaxllm.save(replace(lm, params=half), tmp_path / "half")
    loaded = jaxllm.load(tmp_path / "half")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"bfloat16"}
    assert_equal(loaded.params, half)


def test_a_run_gives_the_moving_average_of_its_newest_checkpoint(run):
    path, params = run
    loaded = jaxllm.load(path)
    assert_equal(loaded.params, jax.tree.map(lambda x: x + 2, params))
    assert loaded.config == CONFIG
    assert loaded.origin == Origin("first", step=2, val_loss=2.0, val_bpb=1.0)


def test_one_checkpoint_of_a_run_can_be_named(run):
    path, params = run
    loaded = jaxllm.load(path / "checkpoints" / "1")
    assert_equal(loaded.params, jax.tree.map(lambda x: x + 1, params))
    assert loaded.origin == Origin("first", step=1, val_loss=3.0, val_bpb=1.5)


def test_a_run_in_a_bucket_is_read_where_it_is(run, monkeypatch):
    run, _ = run
    play_buckets(run.parent.parent, monkeypatch)
    # Arrays do not go through etils, so this one step is of the folder.
    local = lambda path: Path(str(path).replace("gs://", f"{run.parent.parent}/"))  # noqa: E731
    restore = shipped.restore_item
    monkeypatch.setattr(shipped, "restore_item", lambda path, *rest: restore(local(path), *rest))
    here, address = jaxllm.load(run), f"gs://{run.parent.name}/{run.name}"
    there = jaxllm.load(address)
    assert_equal(there.params, here.params)
    assert (there.origin, there.tokenizer.fingerprint()) == (here.origin, here.tokenizer.fingerprint())
    assert jaxllm.load(f"{address}/checkpoints/{here.origin.step}").origin == here.origin
    with pytest.raises(ValueError, match="there is no run at gs://.*/nothing: no config.json"):
        jaxllm.load(f"gs://{run.parent.name}/nothing")


def test_a_damaged_newest_checkpoint_gives_the_one_before(run, tmp_path):
    path, params = run
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    shutil.rmtree(copy / "checkpoints" / "2" / "ema")
    assert_equal(jaxllm.load(copy).params, jax.tree.map(lambda x: x + 1, params))


def test_what_is_no_model_is_refused(run, tmp_path):
    looked_for = r"looked for a run directory \(config.json, checkpoints/\).* a saved model \(model.json"
    with pytest.raises(ValueError, match=f"there is no {tmp_path / 'absent'}: {looked_for}"):
        jaxllm.load(tmp_path / "absent")
    with pytest.raises(ValueError, match=f"{tmp_path} is no model: {looked_for}"):
        jaxllm.load(tmp_path)
    with pytest.raises(ValueError, match="has no checkpoint of step 3|there is no .*/3"):
        jaxllm.load(run[0] / "checkpoints" / "3")


def test_a_run_without_a_checkpoint_is_refused(run, tmp_path):
    shutil.copy(run[0] / "config.json", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="no usable checkpoint"):
        jaxllm.load(tmp_path)


def edit_card(path, change):
    card = json.loads((path / "model.json").read_text())
    change(card)
    (path / "model.json").write_text(json.dumps(card))


def damage_arrays(path):
    """Flip one bit in the middle of the largest file."""
    largest = max(
        (file for file in (path / "params").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: edit_card(path, lambda card: card.update(version=3)),
            "written by a newer jaxllm: config version 3",
        ),
        (lambda path: edit_card(path, lambda card: card["model"].update(d_ff=9)), "unknown field model.d_ff"),
        (
            lambda path: edit_card(path, lambda card: card["model"].update(context_length=9, positions="learned")),
            r"other parameters than the model has:\n  position: expected \(9, 32\), found none",
        ),
        (
            lambda path: edit_card(path, lambda card: card["model"].update(vocab_size=321)),
            r"embedding: expected \(321, 32\), found \(320, 32\)",
        ),
        (damage_arrays, "params (is damaged|cannot be read)"),
        (lambda path: shutil.rmtree(path / "params"), "params cannot be read"),
        (lambda path: shutil.rmtree(path / "tokenizer"), "tokenizer"),
        (
            lambda path: tokenizers.train(tokenizers.TokenizerConfig(kind="character"), ["abc"]).save(
                path / "tokenizer"
            ),
            "is not the tokenizer that the model was saved with",
        ),
    ],
)
def test_a_damaged_model_is_refused(saved, tmp_path, damage, message):
    path = tmp_path / "damaged"
    shutil.copytree(saved, path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        jaxllm.load(path)


def test_saving_replaces_nothing_and_leaves_nothing_half_written(lm, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'gguf'; supported: jaxllm"):
        jaxllm.save(lm, tmp_path / "new", format="gguf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="cannot be saved to .*mine already exists"):
        jaxllm.save(lm, tmp_path / "mine")
    with pytest.raises(ValueError, match="cannot be saved to .*notes.txt"):
        jaxllm.save(lm, tmp_path / "mine" / "notes.txt" / "model")

    class Torn:
        vocab_size = lm.tokenizer.vocab_size
        fingerprint = lm.tokenizer.fingerprint

        def save(self, directory):
            raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="cannot be saved to .*No space left on device"):
        jaxllm.save(replace(lm, tokenizer=Torn()), tmp_path / "torn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
