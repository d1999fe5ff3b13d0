"""Where the seconds of a run went, over sessions that were stopped, killed and rolled back."""

import json

import pytest

from jaxllm.training.goodput import Ledger, read_goodput


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def steps(ledger, clock, first, last, seconds=2.0):
    for step in range(first, last + 1):
        with ledger.during("input"):
            clock.passes(0.5)
        clock.passes(seconds)
        ledger.reached(step)


def test_each_second_is_of_one_kind(tmp_path, clock):
    ledger = Ledger(tmp_path, began=clock.now - 3, clock=clock)
    with ledger.during("compile"):
        clock.passes(10)
    with ledger.during("restore"):
        clock.passes(1)
        with ledger.during("evaluation"):  # one that was due
            clock.passes(4)
        clock.passes(1)
    ledger.starts(0)
    steps(ledger, clock, 1, 5)
    with ledger.during("checkpoint"):
        clock.passes(7)
    ledger.write(5)
    goodput = read_goodput(tmp_path)
    spent = {kind: seconds for kind, seconds in goodput.seconds.items() if seconds}
    assert spent == {
        "start_up": 3,
        "compile": 10,
        "restore": 2,
        "evaluation": 4,
        "step": 10,
        "input": 2.5,
        "checkpoint": 7,
    }
    assert goodput.total == clock.now - 997
    assert goodput.fraction == pytest.approx(10 / 38.5)


def test_steps_that_a_rollback_undid_do_not_count(tmp_path, clock):
    ledger = Ledger(tmp_path, clock=clock)
    ledger.starts(0)
    steps(ledger, clock, 1, 4)
    ledger.write(4)  # saved
    for _ in range(2):  # twice from step 7 back to step 4
        steps(ledger, clock, 5, 7)
        ledger.rolled_back(4)
    steps(ledger, clock, 5, 6)
    ledger.write(6)
    seconds = read_goodput(tmp_path).seconds
    assert (seconds["step"], seconds["rollback"], seconds["input"]) == (12, 12, 6)


def test_a_killed_session_loses_what_came_after_its_last_checkpoint_and_the_time_until_the_next(tmp_path, clock):
    killed = Ledger(tmp_path, clock=clock)
    killed.starts(0)
    steps(killed, clock, 1, 4)
    killed.write(4)  # saved
    steps(killed, clock, 5, 6)
    killed.write(6)  # as it does every half minute
    clock.passes(100)
    ledger = Ledger(tmp_path, clock=clock)
    clock.passes(5)
    ledger.starts(4)
    steps(ledger, clock, 5, 8)
    ledger.write(8)
    goodput = read_goodput(tmp_path)
    spent = {kind: seconds for kind, seconds in goodput.seconds.items() if seconds}
    assert spent == {"step": 16, "input": 5, "restart": 4, "down": 100, "start_up": 5}
    assert goodput.sessions == 2
    assert goodput.total == clock.now - 1000


def test_a_line_is_written_now_and_then_and_half_a_line_is_no_line(tmp_path, clock):
    ledger = Ledger(tmp_path, clock=clock)
    ledger.starts(0)
    steps(ledger, clock, 1, 40)
    lines = (tmp_path / "time.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if line] == [0, 13, 26, 39]
    with open(tmp_path / "time.jsonl", "a") as file:
        file.write('{"session": 1')
    assert read_goodput(tmp_path).seconds["step"] == 78
    later = Ledger(tmp_path, clock=clock)
    later.starts(39)
    assert read_goodput(tmp_path).sessions == 2


def test_a_process_that_does_not_log_writes_nothing(tmp_path, clock):
    ledger = Ledger(None, clock=clock)
    ledger.starts(0)
    ledger.write(3)
    assert read_goodput(tmp_path) is None


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path, clock):
    ledger = Ledger(tmp_path, clock=clock)
    (tmp_path / "time.jsonl").symlink_to("/dev/full")
    with pytest.raises(ValueError, match="could not write .*time.jsonl .* run the same command to resume"):
        ledger.starts(0)
