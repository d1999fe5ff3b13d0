"""Real processes that die: whatever is done to a run, it ends as if nothing had been.

`JAXLLM_KILLS=100 pytest tests/training/test_kill.py -k any_moment` goes on for a hundred kills instead of a handful.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_target
import pytest
import tiny

SHAPE = {"steps": 24, "every": 5, "eval_every": 8, "checkpoints": {"keep_last": 1}}
# Batches 8 to 10 spoil steps 9 to 11: the run goes back to step 5 and meets batch 11 as its sixth.
POISONED = {**SHAPE, "poison": {8: "nan", 9: "inf", 10: "nan"}, "recovery": {"max_bad_steps": 3}}


def environment() -> dict[str, str]:
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**one_device, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(directory: Path, shape: dict = SHAPE, **suffering) -> subprocess.Popen:
    options = json.dumps({**shape, **suffering})
    return subprocess.Popen(
        [sys.executable, kill_target.__file__, str(directory), options],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def complete(directory: Path, shape: dict = SHAPE, **suffering) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a life that nobody ends from outside."""
    process = start(directory, shape, **suffering)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def config(shape: dict):
    return kill_target.experiment({name: value for name, value in shape.items() if name != "poison"})


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "the process neither ended nor got to where it was to be struck"
        time.sleep(0.001)


def logged(directory: Path) -> str:
    log = directory / "metrics.jsonl"
    return log.read_text() if log.exists() else ""


def saving(directory: Path, since: float) -> bool:
    """Whether a checkpoint is being written, or was when the process died: not one that an earlier life left behind."""
    for path in directory.glob("checkpoints/*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):  # it has been finished in between
            if path.stat().st_mtime > since:
                return True
    return False


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """A run that nothing happened to; it is started once more when it is finished, which must change nothing."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert complete(directory)[0] == 0
    log = (directory / "metrics.jsonl").read_bytes()
    status, out, err = complete(directory)
    assert (status, err, (directory / "metrics.jsonl").read_bytes()) == (0, "", log)
    assert "is finished: step 24 of 24" in out
    return directory


class Killer:
    """Ends lives of a run with SIGKILL, each in one of several ways, and remembers what they were doing."""

    def __init__(self, directory: Path, seed: int):
        self.directory, self.random = directory, random.Random(seed)
        self.struck_while_saving = 0

    def strike(self, way: str) -> bool:
        """Start a life and end it; False if it was finished before the blow fell."""
        began = time.time()
        match way:
            case "operation":  # at any of its operations on files, in whichever thread
                process = start(self.directory, die_at=self.random.randint(1, 240))
            case "first save":  # while the loop is steps ahead of it
                process = start(self.directory, die_at=38, linger=0.03, pause=0.01)
            case "save":
                process = start(self.directory, linger=0.03, pause=0.01)
                wait_until(process, lambda: saving(self.directory, since=began))
                time.sleep(self.random.uniform(0, 0.3))
            case "step":
                process = start(self.directory, pause=0.02)
                rows = len(logged(self.directory).splitlines()) + self.random.randint(1, 6)
                wait_until(process, lambda: len(logged(self.directory).splitlines()) >= rows)
            case "time":
                process = start(self.directory, pause=0.02)
                time.sleep(self.random.uniform(0.5, 3))
        if way not in ("operation", "first save"):
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL)
        self.struck_while_saving += process.returncode != 0 and saving(self.directory, since=began)
        return process.returncode != 0


def assert_as_if_nothing_had_been(directory: Path, reference: Path, shape: dict = SHAPE) -> None:
    # To begin with, nothing is left of what was being written or removed.
    assert sorted(os.listdir(directory / "checkpoints")) == sorted(os.listdir(reference / "checkpoints"))
    tiny.assert_same_run(directory, reference, config(shape))


def test_killed_at_any_moment(tmp_path, uninterrupted):
    ways = ["first save", "operation", "save", "step", "operation", "save", "time"]
    killer = Killer(tmp_path / "run", seed=4)
    for way in ways:
        killer.strike(way)
    assert killer.struck_while_saving >= 2
    assert complete(tmp_path / "run")[0] == 0
    assert_as_if_nothing_had_been(tmp_path / "run", uninterrupted)


@pytest.mark.skipif("JAXLLM_KILLS" not in os.environ, reason="JAXLLM_KILLS=N kills N times at random")
def test_killed_at_any_moment_many_times(tmp_path, uninterrupted):
    seed, left, run = random.randrange(10**6), int(os.environ["JAXLLM_KILLS"]), 0
    struck_while_saving = 0
    print(f"seed {seed}")
    while left > 0:
        run += 1
        killer = Killer(tmp_path / str(run), seed + run)
        while left > 0 and killer.strike(way := killer.random.choice(["operation", "save", "step", "time"])):
            left -= 1
            print(way, len(logged(killer.directory).splitlines()), sorted(os.listdir(killer.directory / "checkpoints")))
        struck_while_saving += killer.struck_while_saving
        assert complete(killer.directory)[0] == 0
        assert_as_if_nothing_had_been(killer.directory, uninterrupted)
    print(f"{run} runs, {struck_while_saving} blows fell during a save")


def test_killed_after_a_rollback(tmp_path):
    reference = tmp_path / "reference"
    assert complete(reference, POISONED)[0] == 0
    assert [row["step"] for row in tiny.rows(reference) if row.get("event") == "rollback"] == [5]
    process = start(tmp_path / "run", POISONED, pause=0.03)
    wait_until(process, lambda: "rollback" in logged(tmp_path / "run"))
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert complete(tmp_path / "run", POISONED)[0] == 0
    assert_as_if_nothing_had_been(tmp_path / "run", reference, POISONED)


def test_sigterm_finishes_the_step_saves_and_leaves_in_peace(tmp_path, uninterrupted):
    run, seldom = tmp_path / "run", {**SHAPE, "every": 100}  # so that no step is saved for another reason
    process = start(run, seldom, pause=0.03)
    wait_until(process, lambda: len(logged(run).splitlines()) >= 7)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    (saved,) = [int(name) for name in os.listdir(run / "checkpoints")]
    assert (process.returncode, err) == (0, "")
    assert 6 <= saved < 24
    assert tiny.rows(run)[-1]["step"] == saved
    assert f"SIGTERM received: step {saved} of 24 is saved; run the same command to resume" in out
    status, out, err = complete(run, seldom)
    assert (status, err) == (0, "")
    assert f"resuming at step {saved} of 24" in out
    assert_as_if_nothing_had_been(run, uninterrupted)


def test_the_lock_dies_with_its_owner(tmp_path):
    process = start(tmp_path, pause=0.1)
    wait_until(process, lambda: logged(tmp_path))
    status, _, err = complete(tmp_path)
    assert status == 2
    assert f"another run (process {process.pid}) is using {tmp_path}" in err
    process.kill()
    process.communicate(timeout=60)
    assert complete(tmp_path, terminate_at=0)[0] == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that can be filled; one needs to be root to have it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system of a few MB can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, leave: int) -> None:
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - leave))


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(small_disk, uninterrupted):
    run = small_disk / "run"
    complete(run, terminate_at=11)
    fill(small_disk, leave=40_000)
    status, _, err = complete(run)
    assert status == 2
    assert "could not write the checkpoint of step 15" in err or "could not log" in err
    assert "No space left on device" in err or "code='28'" in err  # ENOSPC, as tensorstore may put it
    (small_disk / "filler").unlink()
    fill(small_disk, leave=0)
    status, _, err = complete(small_disk / "new")
    assert (status, err.count("\n")) == (2, 1)
    assert f"the run directory {small_disk}/new cannot be written (No space left on device)" in err
    (small_disk / "filler").unlink()
    assert complete(run)[0] == 0
    assert_as_if_nothing_had_been(run, uninterrupted)


def test_a_file_that_cannot_grow_stops_the_run_with_the_checkpoint_before_intact(tmp_path, uninterrupted):
    complete(tmp_path, terminate_at=11)
    status, out, err = complete(tmp_path, file_limit=9000)
    assert status == 2
    assert "resuming at step 12" in out
    assert "could not write the checkpoint of step 15" in err
    assert "File too large" in err
    assert "The checkpoint of step 12 is intact" in err
    assert "run the same command to resume" in err
    assert complete(tmp_path)[0] == 0
    assert_as_if_nothing_had_been(tmp_path, uninterrupted)
