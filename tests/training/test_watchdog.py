"""Hangs are seen, told of once, and their stacks kept."""

import threading
import time

import pytest

from jaxllm.training.experiment import FaultConfig
from jaxllm.training.maintenance import MaintenanceNotice
from jaxllm.training.watchdog import Watchdog


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(tmp_path, clock, **config):
    said, ended = [], []
    config = FaultConfig(**{"hang_factor": 10, "hang_minimum": 5, "hang_seconds": 100, **config})
    watchdog = Watchdog(config, tmp_path, 3, said.append, clock=clock, end=ended.append)
    return watchdog, said, ended


def steps(watchdog, clock, *seconds):
    for each in seconds:
        clock.now += each
        watchdog.step_done()


def test_the_limit_follows_the_median_step_once_there_are_some(tmp_path, clock):
    watchdog, _, _ = make(tmp_path, clock)
    steps(watchdog, clock, 30, 1, 1, 1)
    assert watchdog.limit == 100
    steps(watchdog, clock, 2)
    assert watchdog.limit == 10
    steps(watchdog, clock, *[0.1] * 90)
    assert watchdog.limit == 5
    with watchdog.during("evaluation"):
        assert watchdog.limit == 100


def test_a_hang_leaves_the_stacks_of_every_thread(tmp_path, clock):
    watchdog, said, ended = make(tmp_path, clock)
    steps(watchdog, clock, *[1] * 6)
    release = threading.Event()

    def stuck_in_a_collective():
        release.wait()

    thread = threading.Thread(target=stuck_in_a_collective)
    thread.start()
    clock.now += 9.9
    watchdog.look()
    assert said == []
    clock.now += 0.2
    watchdog.look()
    watchdog.look()
    release.set()
    thread.join()
    (file,) = tmp_path.iterdir()
    stacks = file.read_text()
    assert "stuck_in_a_collective" in stacks
    assert "test_a_hang_leaves_the_stacks_of_every_thread" in stacks
    assert file.name.startswith("stacks-3-")
    assert said == [f"nothing was finished for 10 s, in a step, in process 3: the stacks of all threads are in {file}"]
    assert ended == []
    clock.now += 10  # twice the limit
    watchdog.look()
    assert len(said) == 2


def test_a_hang_during_compilation_has_the_fixed_limit(tmp_path, clock):
    watchdog, said, ended = make(tmp_path, clock, hang_exit=True)
    with watchdog.during("compile"):
        clock.now += 99
        watchdog.look()
        assert said == []
        clock.now += 2
        watchdog.look()
    assert "for 101 s, in compile" in said[0] and "ending this process" in said[0]
    assert ended == [1], "a status that launchers answer by starting again"


def test_the_thread_looks_by_itself_and_ends_with_the_session(tmp_path):
    said = []
    config = FaultConfig(hang_seconds=0.05)
    with Watchdog(config, tmp_path, 0, said.append, look_every=0.01):
        time.sleep(0.3)
    assert said
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count
    with Watchdog(FaultConfig(hang_seconds=0.05, hang_factor=0), tmp_path, 0, said.append, look_every=0.01):
        time.sleep(0.1)
    assert len(said) == count, "turned off"


@pytest.mark.parametrize("name", ["agree_every", "hang_minimum", "hang_seconds", "digest_every", "pace_every"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(ValueError, match=f"faults.{name} must"):
        FaultConfig(**{name: -1})


# The machine's notice


class Metadata:
    def __init__(self, *events):
        self.events = list(events)
        self.asked = []

    def __call__(self, name):
        self.asked.append(name)
        if name == "preempted":
            return "FALSE"
        event = self.events.pop(0) if len(self.events) > 1 else self.events[0]
        if event is OSError:
            raise OSError("no route")
        return event


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_maintenance_event_is_told_once():
    notices = []
    fetch = Metadata("NONE", OSError, "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE")
    with MaintenanceNotice(notices.append, fetch=fetch, seconds=0.001):
        wait_until(lambda: notices)
    assert notices == ["maintenance-event: TERMINATE_ON_HOST_MAINTENANCE"]
    assert set(fetch.asked) == {"maintenance-event", "preempted"}


def test_no_notice_while_all_is_well_or_no_one_answers():
    notices = []
    for fetch in (Metadata("NONE"), Metadata(OSError)):
        with MaintenanceNotice(notices.append, fetch=fetch, seconds=0.001):
            wait_until(lambda fetch=fetch: len(fetch.asked) > 6)
    assert notices == []
