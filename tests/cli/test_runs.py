"""Reading a run's history, and `jaxllm runs`."""

import fcntl
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from jaxllm.cli import runs
from jaxllm.cli.main import main
from jaxllm.training.amounts import short_count, short_time
from jaxllm.training.history import read_history, summarize


def training_row(step, loss=None, **more):
    row = {"step": step, "tokens": step * 64, "loss": 5.0 - step if loss is None else loss, "learning_rate": 0.1}
    return {**row, "grad_norm": 1.0, "seconds": 2.0, "tokens_per_second": 32.0, "mfu": None, **more}


def evaluation_row(step, loss):
    return {"step": step, "val_loss": loss, "val_bpb": loss if isinstance(loss, str) else loss / 2}


def write_run(directory, rows, steps=10, tail=""):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"name": directory.name, "training": {"steps": steps}}))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return directory


# History


def test_series_along_steps_tokens_and_time(tmp_path):
    history = read_history(
        write_run(tmp_path / "a", [training_row(1), training_row(2), evaluation_row(2, 3.5), training_row(3)])
    )
    steps, loss = history.series("loss")
    assert steps.tolist() == [1, 2, 3] and loss.tolist() == [4, 3, 2]
    assert history.series("loss", "tokens")[0].tolist() == [64, 128, 192]
    assert history.series("loss", "elapsed")[0].tolist() == [2, 4, 6]
    # An evaluation has only its step: it takes tokens and time of that step's training row.
    assert history.series("val_loss", "tokens")[0].tolist() == [128]
    assert history.series("val_loss", "elapsed")[0].tolist() == [4]
    assert [len(values) for values in history.series("nothing")] == [0, 0]
    assert history.last("loss") == 2 and history.last("nothing") is None


def test_numbers_that_are_not_finite(tmp_path):
    rows = [
        training_row(1, "nan"),
        training_row(2, "inf"),
        training_row(3),
        evaluation_row(3, "nan"),
        evaluation_row(3, 3.0),
    ]
    history = read_history(write_run(tmp_path / "a", [*rows, evaluation_row(4, "nan")]))
    _, loss = history.series("loss")
    assert math.isnan(loss[0]) and loss[1] == math.inf and loss[2] == 2
    assert np.isnan(history.series("mfu")[1]).all()
    assert history.best_evaluation() == evaluation_row(3, 3.0)


def test_steps_that_were_run_again_count_once_but_their_time_counts(tmp_path):
    rows = [
        {"event": "start", "step": 0, "parameters": 7, "time": 1e9},
        *(training_row(step) for step in (1, 2, 3, 4)),
        evaluation_row(2, 9.0),
        evaluation_row(4, 1.0),
        {"event": "rollback", "step": 2, "from_step": 4, "reason": "loss"},
        training_row(3, 8.0),
    ]
    history = read_history(write_run(tmp_path / "a", rows))
    assert [(row["step"], row["loss"]) for row in history.training] == [(1, 4.0), (2, 3.0), (3, 8.0)]
    assert [row["step"] for row in history.evaluations] == [2]
    assert history.training[-1]["elapsed"] == 10.0
    assert [event["event"] for event in history.events] == ["start", "rollback"]
    # Nothing logged since the rollback: step 2 is where the run is.
    assert [row["step"] for row in read_history(write_run(tmp_path / "c", rows[:8])).training] == [1, 2]
    # The same without a word in the log: a run killed after step 4 that went on from its checkpoint of step 1.
    history = read_history(write_run(tmp_path / "b", [*rows[:7], training_row(2, 7.0)]))
    assert [(row["step"], row["loss"]) for row in history.training] == [(1, 4.0), (2, 7.0)]
    assert history.evaluations == ()


def test_half_a_line_at_the_end_is_one_being_written(tmp_path):
    tail = json.dumps(training_row(2))[:-9]
    history = read_history(write_run(tmp_path / "a", [training_row(1)], tail=tail))
    assert len(history.training) == 1 and history.unreadable_lines == 0


def test_lines_that_are_no_rows_are_counted(tmp_path):
    tail = '{"step": 2, "lo{"step": 2}\n[]\n{"loss": 3}\n{"step": "2"}\n' + json.dumps(training_row(3)) + "\n"
    history = read_history(write_run(tmp_path / "a", [training_row(1)], tail=tail))
    assert [row["step"] for row in history.training] == [1, 3]
    assert history.unreadable_lines == 4


def test_missing_keys_are_gaps(tmp_path):
    history = read_history(
        write_run(tmp_path / "a", [{"step": 1}, {"step": 2, "loss": 3.0}, {"step": 3, "val_loss": 2.0}])
    )
    assert history.series("loss")[0].tolist() == [2]
    assert np.isnan(history.series("loss", "tokens")[0]).all()
    summary = summarize(tmp_path / "a")
    assert (summary.step, summary.val_loss, summary.val_bpb, summary.tokens) == (2, 2.0, None, None)


# Summary


def test_summary(tmp_path):
    start = {"event": "start", "step": 0, "parameters": 6_300_000, "time": 1_700_000_000.0}
    rows = [
        start,
        training_row(1, tokens_per_second=1.0),
        evaluation_row(1, 2.0),
        training_row(2),
        evaluation_row(2, 3.0),
        training_row(3),
    ]
    summary = summarize(write_run(tmp_path / "a", rows))
    assert (summary.status, summary.step, summary.steps) == ("stopped", 3, 10)
    assert (summary.loss, summary.val_loss, summary.val_bpb) == (2.0, 2.0, 1.0)
    assert (summary.parameters, summary.tokens, summary.tokens_per_second) == (6_300_000, 192, 32.0)
    assert (summary.seconds, summary.started) == (6.0, 1_700_000_000.0)


def test_status(tmp_path):
    assert summarize(write_run(tmp_path / "finished", [training_row(10)])).status == "finished"
    assert summarize(write_run(tmp_path / "new", [])).status == "not started"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    assert summarize(bare).steps is None


def test_a_held_lock_means_running(tmp_path):
    directory = write_run(tmp_path / "a", [training_row(10)])
    with open(directory / "lock", "w") as lock:
        assert summarize(directory).status == "finished"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert summarize(directory).status == "running"
    assert summarize(directory).status == "finished"


def test_looking_does_not_keep_a_run_from_starting(tmp_path):
    directory = write_run(tmp_path / "a", [])
    (directory / "lock").touch()
    summarize(directory)
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    subprocess.run([sys.executable, "-c", code, str(directory / "lock")], check=True, timeout=60)


# The table


def table(capsys, *arguments):
    assert main(["runs", *map(str, arguments)]) == 0
    head, _, *lines = (line.split() for line in capsys.readouterr().out.splitlines())
    return head, lines


def test_the_table(tmp_path, capsys):
    start = {"event": "start", "step": 0, "parameters": 6_340_000, "time": 1_700_000_000.0}
    write_run(tmp_path / "runs" / "b", [start, training_row(1500), evaluation_row(1500, 3.25)], steps=3000)
    write_run(tmp_path / "runs" / "a", [])
    (tmp_path / "runs" / "not-a-run").mkdir()
    (tmp_path / "runs" / "a-file").touch()
    head, lines = table(capsys, tmp_path / "runs")
    assert head == ["run", *(heading for heading, _, _ in runs.COLUMNS)]
    assert lines[0] == ["a", "not", "started", "0/10", *"--------"]
    assert lines[1][:10] == [
        "b",
        "stopped",
        "at",
        "1,500",
        "1,500/3,000",
        "6.34M",
        "96k",
        "-1495.0000",
        "3.2500",
        "1.6250",
    ]
    assert lines[1][10:12] == ["32", "2s"]
    assert len(lines) == 2


def test_one_run_can_be_listed_and_runs_is_the_default(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "runs" / "a", [training_row(1)])
    assert table(capsys, tmp_path / "runs" / "a")[1][0][0] == "a"
    monkeypatch.chdir(tmp_path)
    assert table(capsys)[1][0][0] == "a"
    monkeypatch.chdir("runs/a")
    assert table(capsys, ".")[1][0][0] == "a"


def test_a_narrow_terminal_gets_fewer_columns(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "runs" / "a", [training_row(1), evaluation_row(1, 3.25)])
    for width in (60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert main(["runs", str(tmp_path / "runs")]) == 0
        text = capsys.readouterr().out
        assert "val_loss" in text and "3.2500" in text and "…" not in text
        assert ("started" in text) == (width > 100)


def test_an_unreadable_config_leaves_out_one_run(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", [])
    write_run(tmp_path / "runs" / "b", [])
    (tmp_path / "runs" / "a" / "config.json").write_text('{"training": ')
    assert main(["runs", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert "not started" in out
    assert f"left out: {tmp_path / 'runs' / 'a' / 'config.json'} is not JSON" in err


def test_no_runs(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "runs")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err


# Amounts


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (987, "987"),
        (999.4, "999"),
        (999.6, "1k"),
        (1_000, "1k"),
        (1_549, "1.55k"),
        (124_439_808, "124M"),
        (999_999, "1M"),
        (8_030_261_248, "8.03B"),
        (15e12, "15T"),
        (3.14159, "3.14"),
        (-2_500, "-2.5k"),
    ],
)
def test_short_count(value, text):
    assert short_count(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3599.7, "1h 00m"),
        (7620, "2h 07m"),
        (385_200, "4d 11h"),
    ],
)
def test_short_time(seconds, text):
    assert short_time(seconds) == text
