"""A run in a bucket, played by a folder behind etils' own backend for gs://."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from etils import epath

from jaxllm.training.job import Event
from jaxllm.training.loop import Trainer
from jaxllm.training.remote_run import Lease, RemoteRunDirectory, is_remote
from tests.buckets import play_buckets


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    play_buckets(tmp_path / "buckets", monkeypatch)
    (tmp_path / "buckets/b").mkdir(parents=True)
    return tmp_path / "buckets/b"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds


def lease(address="gs://b/run", clock=None, **options):
    clock = clock or Clock()
    return Lease(epath.Path(address) / "lease.json", clock=clock, **{"pause": clock.pause, **options})


CONFIG = tiny.experiment()


def train(stage, batches=None):
    """A session on a machine with this stage; checkpoints lie beside, since tensorstore's gs:// can't be played."""
    with RemoteRunDirectory("gs://b/run", stage=stage, lease=lease()) as run:
        run.settle_config(CONFIG)
        run.push()
        job = replace(tiny.job(CONFIG, batches), events=(Event("copy", 4, lambda state, step: run.push()),))
        reporter = tiny.Recorder()
        trainer = Trainer(job, run.path, reporter, checkpoints=stage.parent / "checkpoints")
        return trainer.run(), reporter


class Killed(BaseException):
    pass


class Dying(tiny.Batches):
    def __next__(self):
        if self.next == 10:
            raise Killed
        return super().__next__()


def test_another_machine_goes_on_where_the_bucket_says(bucket, tmp_path, monkeypatch):
    tiny.train(tmp_path / "whole", CONFIG)
    push = RemoteRunDirectory.push
    monkeypatch.setattr(RemoteRunDirectory, "__exit__", lambda self, *_: self._lease.give_back())
    with pytest.raises(Killed):
        train(tmp_path / "one", Dying())
    monkeypatch.undo()
    assert push is RemoteRunDirectory.push
    play_buckets(tmp_path / "buckets", monkeypatch)
    names = {path.name for path in (bucket / "run").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "time.jsonl"}
    outcome, reporter = train(tmp_path / "two")
    assert outcome.finished and reporter.heard("resuming at step 8 of 12")
    assert tiny.rows(tmp_path / "two") == tiny.rows(tmp_path / "whole")
    assert (bucket / "run/metrics.jsonl").read_bytes() == (tmp_path / "two/metrics.jsonl").read_bytes()
    assert not (bucket / "run/lease.json").exists()


def test_a_stage_of_a_run_that_the_bucket_does_not_know_is_emptied(bucket, tmp_path):
    stage = tmp_path / "stage"
    (stage / "tokenizer").mkdir(parents=True)
    (stage / "metrics.jsonl").write_text("old")
    with RemoteRunDirectory("gs://b/run", stage=stage, lease=lease()) as run:
        assert [path.name for path in run.path.iterdir()] == ["lock"]
        assert str(run.checkpoints) == "gs://b/run/checkpoints"
        assert run.tokenizer == stage / "tokenizer"


def test_processes_that_do_not_lead_follow_and_write_nothing(bucket, tmp_path):
    with RemoteRunDirectory("gs://b/run", stage=tmp_path / "one", lease=lease()) as run:
        run.settle_config(CONFIG)
        run.tokenizer.mkdir()
        (run.tokenizer / "tokenizer.json").write_text("{}")
        run.push()
        with RemoteRunDirectory("gs://b/run", stage=tmp_path / "two", leads=False) as other:
            other.follow()
            assert (other.tokenizer / "tokenizer.json").read_text() == "{}"
            assert other.settle_config(CONFIG) == CONFIG
            (other.path / "metrics.jsonl").write_text("not mine to write")
    assert not (bucket / "run/metrics.jsonl").exists()


def test_a_lease_that_is_renewed_is_respected_and_one_left_behind_runs_out(bucket):
    clock = Clock()
    first, second = lease(clock=clock), lease(clock=clock)
    first.take()
    second._pause = lambda seconds: (clock.pause(seconds), first._write())
    with pytest.raises(ValueError, match=r"another run \(process \d+ on .*\) is using gs://b/run: wait for it"):
        second.take()
    first._over.set()  # as a process that is killed
    first._thread.join()
    third = lease(clock=clock)
    before = clock.now
    third.take()
    assert 100 < clock.now - before < 130
    third.give_back()
    assert not (bucket / "run/lease.json").exists()


def test_of_two_that_begin_in_the_same_moment_one_goes_on(bucket):
    clock = Clock()
    first, second = lease(clock=clock), lease(clock=clock)
    first._pause = lambda seconds: second._write()
    with pytest.raises(ValueError, match="has just begun to use gs://b/run"):
        first.take()


def test_a_lease_is_renewed_while_it_is_held(bucket):
    renewed = threading.Event()
    held = lease(seconds=0.03, clock=Clock())
    write = held._write
    held.take()
    held._write = lambda: (write(), renewed.set())
    assert renewed.wait(5)
    held.give_back()


def test_addresses():
    assert is_remote("gs://b/run") and not is_remote(Path("runs/x"))
