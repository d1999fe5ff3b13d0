"""Two and four real processes on this machine: they train as one would, and end together when one is killed."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny
from several_processes import Together, tiny_runs

from jaxllm.training import run_directory
from jaxllm.training.goodput import read_goodput

CONFIG = tiny.experiment(model=replace(tiny.MODEL, num_layers=1))
SAID = "process 1 (host-1) is gone: it was killed, or its machine was"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of the whole run in this one process, with eight devices."""
    directory = tmp_path_factory.mktemp("alone")
    tiny.train(directory, CONFIG)
    return losses(directory)


def losses(directory):
    return [row["loss"] for row in tiny.rows(directory) if "loss" in row]


def result(ended) -> dict:
    """What a process that came to its end printed of it."""
    (line,) = [line for line in ended.said.splitlines() if line.startswith("{")]
    return json.loads(line)


def test_two_then_four_processes_are_one_run(tmp_path, alone):
    """Two until one is killed, four until one is asked to stop, and the rest alone."""
    directory = tmp_path / "run"
    local = {"local_every": 1, "local_directory": str(tmp_path / "local"), "keep_last": 9}
    asked = {"experiment": {"checkpoints": local}}
    first, killed = Together(tiny_runs(directory, asked, {**asked, "killed_at": 6}), devices=4).wait()
    assert killed.status == -9
    assert first.status == 1 and f"error: {SAID}" in first.said
    # Batch 6 never came, so step 7 was not done; nothing of step 6 is lost, though the last shared checkpoint is of 4.
    assert 4 <= len(losses(directory)) <= 6
    parts = sorted(
        path.relative_to(tmp_path / "local").as_posix().split("/", 1)[1] for path in (tmp_path / "local").rglob("*of-2")
    )
    assert parts == [f"{step}/process-{p}-of-2" for step in (5, 6) for p in (0, 1)]

    ended = Together(tiny_runs(directory, {}, {}, {}, {"stopped_at": 8}), devices=2).wait()
    assert [each.status for each in ended] == [0] * 4, ended
    results = [result(each) for each in ended]
    # Batch 8 is made for step 9, which is told of after it, and heard of after step 10.
    assert [(r["step"], r["stopped_by"], r["devices"]) for r in results] == [(10, "SIGTERM", 8)] * 4
    assert "resuming at step 4 of 12" in results[0]["said"]
    assert [r["rows"] for r in results] == [[2 * p, 2 * p + 1] for p in range(4)]
    assert results[0]["losses"] == results[3]["losses"]

    outcome, reporter = tiny.train(directory, CONFIG)
    assert outcome.finished and reporter.heard("resuming at step 10 of 12")
    np.testing.assert_allclose(losses(directory), alone, rtol=1e-5)
    assert len(losses(directory)) == 12
    goodput = read_goodput(directory)
    assert goodput.sessions == 3 and goodput.seconds["step"] > 0 and goodput.seconds["down"] > 0


def test_hosts_that_see_other_directories_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(run_directory, "tell_all", lambda subject, text: text)
    monkeypatch.setattr(run_directory, "barrier", lambda name: None)
    monkeypatch.setattr(run_directory, "gather", lambda sees: np.asarray([[sees], [0.0], [1.0]]))
    with pytest.raises(ValueError, match="process 1 does not see the run directory .* a directory that all of them"):
        run_directory.refuse_private_directory(tmp_path)
    assert list(tmp_path.iterdir()) == []
