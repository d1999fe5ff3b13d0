"""What a run logs: every number of every step, in files that others can read."""

import json
import math
import os
import struct
from dataclasses import replace
from unittest.mock import ANY

import pytest
import tiny

from jaxllm.training.experiment import TrainingConfig
from jaxllm.training.metrics import MetricsLog

CONFIG = tiny.experiment()
FIELDS = {"step", "tokens", "loss", "learning_rate", "grad_norm", "seconds", "tokens_per_second", "mfu"}


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def scalars(directory):
    """(tag, step, value) of every scalar in the TensorBoard files: length, its checksum, an event, its checksum, ..."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((directory / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += size + 16
    return found


def test_every_step_is_a_row_of_all_fields(tmp_path):
    directory, reporter = tmp_path, tiny.Recorder()
    tiny.Trainer(replace(tiny.job(CONFIG), peak_flops=1e12), directory, reporter).run()
    assert lines(directory)[0] == {"event": "start", "step": 0, "time": ANY, "parameters": 5712}
    rows = [row for row in lines(directory) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 13))
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["tokens"] == row["step"] * 8 * 16
        assert row["seconds"] > 0
        assert row["tokens_per_second"] == pytest.approx(8 * 16 / row["seconds"])
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] * 1e6 / 1e12)
    assert lines(directory)[-2].keys() == {"step", "val_loss", "val_bpb"}
    assert [row["step"] for row in reporter.rows] == [*range(1, 13), 12], "the progress bar sees the same rows"

    board = scalars(directory)
    assert {tag for tag, _, _ in board} == {*rows[0], "val_loss", "val_bpb"} - {"step"}, (
        "numbers of events are no curves"
    )
    assert [(tag, step) for tag, step, _ in board if tag == "loss"] == [("loss", n) for n in range(1, 13)]
    assert [step for tag, step, _ in board if tag == "val_bpb"] == [12]
    logged = {(name, row["step"]): row[name] for row in rows for name in ("loss", "grad_norm", "learning_rate")}
    for tag, step, value in board:
        if (tag, step) in logged:
            assert value == pytest.approx(logged[tag, step], rel=1e-6)


def test_mfu_is_null_where_the_peak_is_not_known(tmp_path):
    tiny.train(tmp_path, CONFIG)
    assert {row["mfu"] for row in lines(tmp_path) if "loss" in row} == {None}


def test_numbers_that_json_lacks_are_logged_by_name(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": math.nan, "grad_norm": math.inf, "low": -math.inf, "fine": 2.5})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1, "loss": "nan", "grad_norm": "inf", "low": "-inf", "fine": 2.5
    }  # fmt: skip
    assert scalars(tmp_path) == [("fine", 1, 2.5)]


def test_rows_are_there_before_the_log_is_closed(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 4.0})
        assert lines(tmp_path) == [{"step": 1, "loss": 4.0}]


def test_truncation_drops_what_comes_after_an_offset(tmp_path):
    with MetricsLog(tmp_path) as log:
        assert log.offset() == 0
        log.write({"step": 1})
        offset = log.offset()
        log.write({"step": 2})
        log.write({"step": 3})
    with MetricsLog(tmp_path) as log:
        assert log.truncate(offset) == 2 * len('{"step": 2}\n')
        assert log.truncate(10_000) == 0, "a log that was lost is no reason to grow it"
        log.write({"step": 4})
    assert lines(tmp_path) == [{"step": 1}, {"step": 4}]


def test_each_session_has_its_own_event_file(tmp_path):
    for step in (1, 2):
        with MetricsLog(tmp_path) as log:
            log.write({"step": step, "loss": 1.0})
            os.utime(tmp_path)
    names = os.listdir(tmp_path / "tensorboard")
    assert all(name.startswith("events.out.tfevents.") for name in names)
    assert len(scalars(tmp_path)) >= 1


def test_an_interrupted_write_is_completed(tmp_path):
    """An operating system may take a part of what it is given."""

    class Reluctant:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(data[:5])

        def close(self):
            self.file.close()

    with MetricsLog(tmp_path) as log:
        log._file = Reluctant(log._file)
        log.write({"step": 1, "loss": 4.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 4.0}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(ValueError, match=r"could not log to .* \(No space left on device\): free space"),
        MetricsLog(tmp_path) as log,
    ):
        log.write({"step": 1})


@pytest.mark.parametrize(
    "fields, complaint", [({"steps": 0}, "at least 1"), ({"ema_decay": 1.0}, "ema_decay must be in")]
)
def test_impossible_settings(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        TrainingConfig(**fields)
