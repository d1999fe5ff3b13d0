"""Checkpoints come back as they were, on any mesh, or say what is wrong with them."""

import errno
import gc
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.parallel.mesh import MeshConfig, make_mesh
from jaxllm.training.checkpoints import CheckpointError, Checkpoints, Mismatch, flatten, restore_item
from jaxllm.training.experiment import CheckpointConfig
from jaxllm.training.state import TrainState

PROGRESS = {"batches": {"next": 7, "shards": [1, 2]}, "watch": {"good": [3.25, 0.1]}, "val": {}, "note": "é"}
AXES = {"matrix": (("data", "fsdp"), "tensor"), "half": ("fsdp", None), "stack": (None, None, ("fsdp", "tensor"))}


def make_state(step: int, mesh: MeshConfig | None = None, *, ema: bool = True, seed: int | None = None) -> TrainState:
    """A state of every type that training keeps, containers within containers, made of a seed: by default the step."""
    random = np.random.default_rng(step if seed is None else seed)
    normal = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {
        "matrix": normal(8, 16),
        "half": normal(16, 8).astype(jnp.bfloat16),
        "blocks": ({"stack": normal(2, 3, 8)},),
    }
    opt_state = optax.ScaleByAdamState(np.int32(step), jax.tree.map(np.square, params), params), optax.EmptyState()
    key = random.integers(0, 2**32, 2, np.uint32)
    average = jax.tree.map(lambda x: x / 2, params) if ema else None
    mesh = make_mesh(mesh or MeshConfig())

    def place(path, leaf):
        axes = AXES.get(jax.tree_util.keystr(path[-1:], simple=True), ())
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*axes)))

    state = TrainState(np.int32(step), params, opt_state, average, key, np.int32(3))
    return jax.tree_util.tree_map_with_path(place, state)


def target_of(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def open_(directory: Path, **config) -> Checkpoints:
    return Checkpoints(directory, CheckpointConfig(**{"keep_last": 100, **config}))


def save(directory: Path, *steps: int, **config) -> None:
    with open_(directory, **config) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), PROGRESS)


def assert_is(state: TrainState, step: int) -> None:
    expected, found = flatten(make_state(step)), flatten(state)
    assert expected.keys() == found.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert np.asarray(found[name]).tobytes() == np.asarray(expected[name]).tobytes(), name


# Round trips


@pytest.mark.parametrize("asynchronous", [True, False])
def test_everything_comes_back(tmp_path, asynchronous):
    save(tmp_path / "c", 5, asynchronous=asynchronous)
    with open_(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(target_of(make_state(0)))
    assert_is(restored.state, 5)
    assert jax.tree.structure(restored.state) == jax.tree.structure(make_state(0))
    assert (restored.step, restored.damaged) == (5, ())
    assert {name: restored.progress[name] for name in PROGRESS} == PROGRESS
    assert (restored.progress["step"], restored.progress["val_loss"]) == (5, None)


@pytest.mark.parametrize("mesh", [MeshConfig(data=1, fsdp=4, tensor=2), MeshConfig(data=2, fsdp=1, tensor=4)])
def test_it_comes_back_onto_another_mesh(tmp_path, mesh):
    save(tmp_path / "c", 5)
    target = target_of(make_state(0, mesh))
    with open_(tmp_path / "c") as checkpoints:
        state = checkpoints.restore(target).state
    assert_is(state, 5)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda t: t.sharding, target)
    assert len({str(shard.index) for shard in state.params["matrix"].addressable_shards}) == 8


def test_there_is_nothing_to_restore_at_first(tmp_path):
    with open_(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(target_of(make_state(0))) is None
        assert checkpoints.steps() == []


def test_relative_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("runs/c"), 5)
    with open_(Path("runs/c")) as checkpoints:
        assert_is(checkpoints.restore(target_of(make_state(0))).state, 5)


def test_what_is_saved_is_the_moment_of_saving(tmp_path):
    """Training goes on in the same memory while the checkpoint is written."""
    spoil = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    with open_(tmp_path / "c") as checkpoints:
        state = make_state(5)
        checkpoints.save(state, PROGRESS)
        for _ in range(20):
            state = spoil(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        assert_is(checkpoints.restore(target_of(make_state(0))).state, 5)


def test_one_item_comes_back_alone(tmp_path):
    save(tmp_path / "c", 5)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), make_state(0).params)
    params = restore_item(tmp_path / "c" / "5", "params", target)
    jax.tree.map(np.testing.assert_array_equal, params, make_state(5).params)
    with pytest.raises(Mismatch, match=r"missing: more float32\[2\]"):
        restore_item(tmp_path / "c" / "5", "params", {**target, "more": jax.ShapeDtypeStruct((2,), jnp.float32)})


def test_restoring_is_silent(tmp_path, capfd, caplog):
    save(tmp_path / "c", 4, 5)
    with open_(tmp_path / "c") as checkpoints:
        checkpoints.restore(target_of(make_state(0)))
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == []


# Strictness


def test_each_leaf_that_does_not_fit_is_named(tmp_path):
    save(tmp_path / "c", 5)
    wanted = make_state(0)
    params = {
        "matrix": wanted.params["matrix"].T,
        "half": wanted.params["half"].astype(jnp.float32),
        "novel": jnp.ones(2),
    }
    with open_(tmp_path / "c") as checkpoints, pytest.raises(Mismatch) as caught:
        checkpoints.restore(target_of(replace(wanted, params=params)))
    message = str(caught.value)
    assert f"{tmp_path}/c/5/params does not fit this model" in message
    assert "missing: novel float32[2]" in message
    assert "unexpected: blocks.0.stack float32[2, 3, 8]" in message
    assert "different: matrix is float32[8, 16] in the checkpoint, float32[16, 8] in the model" in message
    assert "different: half is bfloat16[16, 8] in the checkpoint, float32[16, 8] in the model" in message
    assert os.listdir(tmp_path / "c") == ["5"], "a checkpoint of another model is no damage"


def test_another_optimizer_is_named_leaf_by_leaf(tmp_path):
    save(tmp_path / "c", 5)
    wanted = replace(make_state(0), opt_state=optax.TraceState(make_state(0).params))
    with open_(tmp_path / "c") as checkpoints, pytest.raises(Mismatch) as caught:
        checkpoints.restore(target_of(wanted))
    assert "missing: opt_state.trace.matrix" in str(caught.value)
    assert "unexpected: opt_state.0.mu.matrix" in str(caught.value)
    assert "unexpected: opt_state.0.count int32[]" in str(caught.value)


@pytest.mark.parametrize("ema", [True, False])
def test_a_moving_average_can_neither_appear_nor_vanish(tmp_path, ema):
    with open_(tmp_path / "c") as checkpoints:
        checkpoints.save(make_state(5, ema=ema), PROGRESS)
    with open_(tmp_path / "c") as checkpoints, pytest.raises(Mismatch, match="training.ema_decay must stay"):
        checkpoints.restore(target_of(make_state(0, ema=not ema)))


# What is kept

LOSSES = {0: None, 1: 3.0, 2: 2.0, 3: float("nan"), 4: 1.0, 5: None, 6: 2.5, 7: 1.5, 8: 2.8, 9: 4.0}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize(
    "policy, kept",
    [
        ({"keep_last": 1, "keep_best": 0}, [9]),
        ({"keep_last": 3, "keep_best": 0}, [7, 8, 9]),
        ({"keep_last": 1, "keep_best": 1}, [4, 9]),
        ({"keep_last": 2, "keep_best": 3}, [2, 4, 7, 8, 9]),
        ({"keep_last": 1, "keep_best": 0, "keep_every": 3}, [0, 3, 6, 9]),
        ({"keep_last": 2, "keep_best": 1, "keep_every": 5}, [0, 4, 5, 8, 9]),
    ],
)
def test_kept_by_policy_exactly(tmp_path, policy, kept, reopened):
    checkpoints = open_(tmp_path / "c", **policy)
    for step, loss in LOSSES.items():
        checkpoints.save(make_state(step, ema=False), PROGRESS, loss)
        if reopened and step in (4, 7):  # the losses of those before must be known to the next session too
            checkpoints.__exit__(None, None, None)
            checkpoints = open_(tmp_path / "c", **policy)
    with checkpoints:
        pass
    assert sorted(int(name) for name in os.listdir(tmp_path / "c")) == kept


# Damage


def reopen_after_damage(directory: Path):
    """(what was restored, the directories in which damaged checkpoints now lie)"""
    with open_(directory / "c") as checkpoints:
        restored = checkpoints.restore(target_of(make_state(0)))
    return restored, sorted(path.name for path in directory.glob("damaged-*"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    save(directory / "c", 4, 8)
    return directory


# Orbax leaves the reads of other arrays unfinished when one fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("harm", [truncate, flip, os.remove])
def test_harm_to_any_file_is_seen_or_harmless(tmp_path, two_checkpoints, harm):
    """Never is anything but the content of a whole checkpoint restored, whichever file is harmed."""
    files = sorted(path for path in (two_checkpoints / "c/8").rglob("*") if path.is_file() and path.stat().st_size)
    noticed = []
    for number, file in enumerate(files):
        run = tmp_path / str(number)
        shutil.copytree(two_checkpoints, run)
        name = file.relative_to(two_checkpoints / "c/8")
        harm(run / "c/8" / name)
        restored, aside = reopen_after_damage(run)
        assert_is(restored.state, restored.step)
        assert {key: restored.progress[key] for key in PROGRESS} == PROGRESS
        assert (restored.step, len(restored.damaged), aside) in ((8, 0, []), (4, 1, ["damaged-8"])), name
        noticed += [str(name)] * len(restored.damaged)
        shutil.rmtree(run)
    assert "progress/metadata" in noticed
    for item in (
        "params",
        "ema",
        "training",
    ):  # of all that orbax writes, some file of each item holds the arrays themselves
        assert any(name.startswith(f"{item}/") and "/d/" in name for name in noticed)
    gc.collect()  # here, where the warnings of what is found unfinished are expected


def test_the_one_before_a_damaged_one_is_used_and_its_step_can_be_saved_again(tmp_path):
    save(tmp_path / "c", 4, 8)
    shutil.rmtree(tmp_path / "c/8/progress")
    with open_(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(target_of(make_state(0)))
        assert restored.step == 4
        (line,) = restored.damaged
        assert line.startswith("checkpoint 8 is damaged (")
        assert line.endswith(f"moved to {tmp_path}/damaged-8")
        assert (tmp_path / "damaged-8" / "params").is_dir()
        checkpoints.save(make_state(8), PROGRESS)
    restored, _ = reopen_after_damage(tmp_path)
    assert (restored.step, restored.damaged) == (8, ())
    # Once more: the place where it was put is taken.
    shutil.rmtree(tmp_path / "c/8/params")
    restored, aside = reopen_after_damage(tmp_path)
    assert (restored.step, aside) == (4, ["damaged-8"])
    assert (tmp_path / "damaged-8" / "progress").is_dir()


def test_arrays_of_another_checkpoint_are_not_taken_for_its_own(tmp_path):
    save(tmp_path / "c", 4, 8)
    shutil.rmtree(tmp_path / "c/8/params")
    shutil.copytree(tmp_path / "c/4/params", tmp_path / "c/8/params")
    restored, _ = reopen_after_damage(tmp_path)
    assert restored.step == 4
    assert "contents of blocks.0.stack, half, matrix differ from what was saved" in restored.damaged[0]


def test_progress_that_was_changed_is_damage(tmp_path):
    save(tmp_path / "c", 4, 8)
    progress = tmp_path / "c/8/progress/metadata"
    progress.write_text(progress.read_text().replace('"next": 7', '"next": 9'))
    restored, _ = reopen_after_damage(tmp_path)
    assert restored.step == 4
    assert "progress differ from what was saved" in restored.damaged[0]


def test_a_half_removed_checkpoint_is_damage_not_confusion(tmp_path):
    save(tmp_path / "c", 2, 4, 8)
    for path in [*(tmp_path / "c/2").iterdir(), *(tmp_path / "c/8").iterdir()]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored, aside = reopen_after_damage(tmp_path)
    assert (restored.step, aside) == (4, ["damaged-8"])


def test_a_removal_that_was_cut_short_is_finished(tmp_path, caplog):
    save(tmp_path / "c", 2, 4, 8)
    (tmp_path / "c/2/_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(tmp_path / "c/2/params")
    with open_(tmp_path / "c", keep_last=2, keep_best=0) as checkpoints:
        assert checkpoints.restore(target_of(make_state(0))).damaged == ()
    assert sorted(os.listdir(tmp_path / "c")) == ["4", "8"]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_nothing_is_removed_before_the_newest_has_proved_whole(tmp_path):
    """Killed between the end of a save and the removal that follows: then the older one is the only one left."""
    save(tmp_path / "c", 4, 8)
    (tmp_path / "c/8/progress/metadata").unlink()
    with open_(tmp_path / "c", keep_last=1, keep_best=0) as checkpoints:
        assert checkpoints.restore(target_of(make_state(0))).step == 4


def test_where_all_are_damaged_nothing_is_moved_and_nothing_starts_anew(tmp_path):
    save(tmp_path / "c", 4, 8)
    for step in (4, 8):
        (tmp_path / f"c/{step}/progress/metadata").unlink()
    for _ in range(2):
        with open_(tmp_path / "c") as checkpoints, pytest.raises(CheckpointError) as caught:
            checkpoints.restore(target_of(make_state(0)))
        assert f"no checkpoint in {tmp_path}/c can be used; move the directory away to start from step 0" in str(
            caught.value
        )
        assert "checkpoint 8 is damaged" in str(caught.value)
        assert "checkpoint 4 is damaged" in str(caught.value)
    assert sorted(os.listdir(tmp_path / "c")) == ["4", "8"]
    assert os.listdir(tmp_path) == ["c"]


# Saves that fail


def no_room(*paths):
    raise OSError(errno.ENOSPC, "No space left on device", paths[0])


@pytest.mark.parametrize("noticed_by", ["wait", "save", "exit"])
def test_a_save_that_fails_in_the_background_is_an_error_soon(tmp_path, monkeypatch, noticed_by, caplog):
    save(tmp_path / "c", 4)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught, open_(tmp_path / "c") as checkpoints:
        patch.setattr(os, "rename", no_room)
        patch.setattr(os, "replace", no_room)
        checkpoints.save(make_state(8), PROGRESS)
        if noticed_by == "wait":
            checkpoints.wait()
        elif noticed_by == "save":
            checkpoints.save(make_state(12), PROGRESS)
    message = str(caught.value)
    assert f"could not write the checkpoint of step 8 in {tmp_path}/c" in message
    assert "No space left on device" in message
    assert "The checkpoint of step 4 is intact" in message
    assert not [record for record in caplog.records if record.levelname == "ERROR"], "the error is told once"
    # With room again, the next session cleans up and goes on.
    assert [name for name in os.listdir(tmp_path / "c") if "tmp" in name]
    with open_(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(target_of(make_state(0))).step == 4
        checkpoints.save(make_state(8), PROGRESS)
    assert sorted(os.listdir(tmp_path / "c")) == ["4", "8"]


def test_the_first_save_that_fails_says_that_there_is_none_before(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="There is no earlier checkpoint"), open_(tmp_path / "c") as checkpoints:
        monkeypatch.setattr(os, "rename", no_room)
        monkeypatch.setattr(os, "replace", no_room)
        checkpoints.save(make_state(0), PROGRESS)


def test_an_error_of_the_run_is_not_hidden_by_one_of_saving(tmp_path, monkeypatch):
    with pytest.raises(FloatingPointError) as caught, open_(tmp_path / "c") as checkpoints:
        monkeypatch.setattr(os, "rename", no_room)
        monkeypatch.setattr(os, "replace", no_room)
        checkpoints.save(make_state(0), PROGRESS)
        raise FloatingPointError("the run diverged")
    assert "besides, it could not write the checkpoint of step 0" in caught.value.__notes__[0]


def test_a_step_is_saved_once(tmp_path):
    with open_(tmp_path / "c") as checkpoints:
        checkpoints.save(make_state(4), PROGRESS)
        with pytest.raises(CheckpointError, match="step 4 .* already exists"):
            checkpoints.save(make_state(4, seed=1), PROGRESS)
        assert_is(checkpoints.restore(target_of(make_state(0))).state, 4)


def test_leftovers_of_a_killed_save_are_cleared_away(tmp_path):
    save(tmp_path / "c", 4)
    for step in (6, 8):
        (tmp_path / "c" / f"{step}.orbax-checkpoint-tmp" / "params.orbax-checkpoint-tmp").mkdir(parents=True)
    with open_(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == [4]
        checkpoints.save(make_state(8), PROGRESS)
    assert sorted(os.listdir(tmp_path / "c")) == ["4", "8"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/file/c cannot be written .* choose another run directory"):
        open_(tmp_path / "file" / "c")


def test_progress_is_plain_json(tmp_path):
    save(tmp_path / "c", 5)
    progress = json.loads((tmp_path / "c/5/progress/metadata").read_text())
    assert progress["arrays"]["params"]["half"][0] == "bfloat16[16, 8]"
    assert progress["batches"] == PROGRESS["batches"]
