"""Local checkpoints beside the shared ones: the newest whole one of any tier is taken, by all hosts the same."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from jaxllm.parallel.mesh import MeshConfig
from jaxllm.training import local_checkpoints, tiers
from jaxllm.training.checkpoints import CheckpointError
from jaxllm.training.experiment import CheckpointConfig
from jaxllm.training.job import Event
from jaxllm.training.loop import Trainer
from jaxllm.training.tiers import Tiers


def config(local: Path, mesh=None, **checkpoints):
    tiers = {"local_every": 2, "local_directory": str(local), **checkpoints}
    return tiny.experiment(steps=12, every=6, mesh=mesh, checkpoints=tiers)


class Killed(Exception):
    pass


class Dying(tiny.Batches):
    """As a process that is killed while batch `at` is made."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def __next__(self):
        if self.next == self.at:
            raise Killed
        return super().__next__()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run killed after step 10, with local checkpoints of 8 and 10 and shared ones of 0 and 6."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        tiny.train(folder / "run", config(folder / "local"), Dying(10))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    tiny.train(folder / "run", config(folder / "local"))
    return folder / "run"


@pytest.fixture
def again(killed, tmp_path):
    """A copy of the killed run to go on with; (run, local folder of the run, config)."""
    import shutil

    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    (local,) = (tmp_path / "local").iterdir()
    return tmp_path / "run", local, config(tmp_path / "local")


def test_the_newest_local_one_is_gone_on_with(again, uninterrupted):
    run, local, same = again
    assert sorted(path.name for path in local.iterdir()) == ["10", "8"]
    outcome, reporter = tiny.train(run, same)
    assert outcome.finished and reporter.heard("resuming at step 10 of 12")
    tiny.assert_same_run(run, uninterrupted, same)


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_a_damaged_local_one_is_passed_over(again, uninterrupted, damage):
    run, local, same = again
    (part,) = (local / "10").iterdir()
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    match damage:
        case "flipped":
            part.write_bytes(content)
        case "short":
            part.write_bytes(content[: len(content) // 2])
        case "gone":
            part.unlink()
    _, reporter = tiny.train(run, same)
    assert reporter.heard("resuming at step 8 of 12")
    assert reporter.heard("the local checkpoint of step 10 cannot be used by all hosts") == (damage != "gone")
    tiny.assert_same_run(run, uninterrupted, same)


def test_steps_that_only_some_hosts_still_have_are_not_offered(again, uninterrupted, monkeypatch):
    """Another host lost its disk but for step 8: played by what it would answer."""
    run, _, same = again

    def gather(*numbers):
        other = [-1.0] * len(numbers)
        other[:2] = divmod(8, 1 << 20)
        return np.asarray([numbers, other], np.float32)

    monkeypatch.setattr(local_checkpoints, "gather", gather)
    _, reporter = tiny.train(run, same)
    assert reporter.heard("resuming at step 8 of 12")


def test_a_host_that_has_none_means_the_shared_one(again, uninterrupted, monkeypatch):
    run, local, same = again
    monkeypatch.setattr(local_checkpoints, "gather", lambda *n: np.asarray([n, [-1.0] * len(n)], np.float32))
    _, reporter = tiny.train(run, same)
    assert reporter.heard("resuming at step 6 of 12")
    tiny.assert_same_run(run, uninterrupted, same)


def test_another_mesh_takes_the_shared_one(again):
    run, _, same = again
    other = replace(same, mesh=MeshConfig(data=4, fsdp=2))
    said = []
    with Tiers(run, run / "checkpoints", other.checkpoints, said.append) as checkpoints:
        restored = checkpoints.restore(Trainer(tiny.job(other), run, tiny.Recorder()).program.state)
    assert restored.step == 6
    assert said[0].startswith("the local checkpoint of step 10 cannot be used by all hosts")


def test_a_local_one_replaces_shared_ones_that_are_all_damaged(again, uninterrupted):
    run, _, same = again
    for step in (0, 6):
        (run / f"checkpoints/{step}/progress/metadata").write_text("{}")
    outcome, reporter = tiny.train(run, same)
    assert outcome.finished and reporter.heard("resuming at step 10 of 12")


def test_the_run_before_in_the_same_directory_is_another_run(again):
    import shutil

    run, _, same = again
    shutil.rmtree(run)
    _, reporter = tiny.train(run, same)
    assert not reporter.heard("resuming")


def test_a_rollback_goes_to_the_newest_of_any_tier(tmp_path):
    recovery = {"max_bad_steps": 1}
    from jaxllm.training.experiment import RecoveryConfig

    same = replace(config(tmp_path / "local"), recovery=RecoveryConfig(**recovery))
    outcome, reporter = tiny.train(tmp_path / "run", same, tiny.Batches(poison={4: np.nan}))
    assert outcome.finished and reporter.heard("rolled back to step 4")


def test_at_most_two_local_ones_are_kept_and_pieces_are_stored_once(again, tmp_path):
    _, local, _ = again
    (part,) = (local / "10").iterdir()
    header = json.loads(part.read_bytes().split(b"\n", 1)[0])
    names = [piece["name"] for piece in header["pieces"]]
    assert len(names) == len(set(names)), "eight replicas of each array, one copy"
    assert header["progress"]["step"] == 10


# Directories that are slow or can't be written


def test_a_local_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoints.local_directory=.*/file cannot be written .*local_every=0"):
        tiny.train(tmp_path / "run", config(tmp_path / "file"))
    with pytest.raises(ValueError, match="local_every=3 needs checkpoints.local_directory"):
        CheckpointConfig(local_every=3)


def test_a_read_only_checkpoint_directory_is_refused_before_step_0(tmp_path, monkeypatch):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tiers, "write_probe", read_only)
    reporter = tiny.Recorder()
    with pytest.raises(
        CheckpointError, match=r"checkpoints cannot be written \(Read-only file system\): choose another"
    ):
        Trainer(tiny.job(tiny.experiment()), tmp_path, reporter).run()
    assert reporter.said == [], "nothing was compiled"
    assert not (tmp_path / "checkpoints/0").exists()


class Slow:
    """A clock on which everything that is timed takes so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 0.0

    def __call__(self):
        self.now += self.seconds
        return self.now


def test_a_slow_checkpoint_directory_is_told_of_with_the_seconds(tmp_path):
    said = []
    state = jax.tree.map(
        lambda x: jax.numpy.zeros(x.shape, x.dtype, device=x.sharding),
        Trainer(tiny.job(tiny.experiment()), tmp_path, tiny.Recorder()).program.state,
    )
    where = tmp_path / "checkpoints"
    with Tiers(tmp_path, where, CheckpointConfig(), said.append, clock=Slow(7.5)) as checkpoints:
        assert said == [f"writing 1 MiB to {tmp_path}/checkpoints took 7.5 s: checkpoints will be slow there"]
        checkpoints.save(state, {})
    assert len(said) == 1
    with Tiers(tmp_path, where, CheckpointConfig(slow_seconds=5), said.append, clock=Slow(7.5)) as checkpoints:
        checkpoints.save(state.replace(step=state.step + 1), {})
    assert "the checkpoint of step 1 held up training for 8 s" in said[-1] and "is slow" in said[-1]


# Events


def test_an_event_missed_because_of_a_stop_is_made_up_for_on_resume(tmp_path):
    exported = []
    export = Event("export", 3, lambda state, step: exported.append((step, int(state.step))))
    same = tiny.experiment(steps=12)

    def run(batches=None):
        job = replace(tiny.job(same, batches), events=(export,))
        return Trainer(job, tmp_path, tiny.Recorder()).run()

    run(tiny.Batches(stopped_at=5))
    assert exported == [(3, 3)]
    for _ in range(2):  # a finished run exports no more
        run()
        assert exported == [(3, 3), (6, 6), (9, 9), (12, 12)]
