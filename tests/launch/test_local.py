"""launch/run local: one process, and several that find each other."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.stage import GOES_ON, NASTY, shellcheck

TELLS = 'echo "told: ${JAXLLM_COORDINATOR:-} ${JAXLLM_PROCESSES:-} ${JAXLLM_PROCESS:-} $A"'


def test_one_process(stage):
    stage.tool("jaxllm", f"{TELLS}; exit 9")
    done = stage.launch("local", "--env", "A=b 'c' $(touch pwned)", "--", "tiny", "--run", "runs/One", *NASTY)
    assert done.returncode == 9
    assert stage.calls() == [["jaxllm", "train", "tiny", "--run", "runs/One", *NASTY]]
    assert "told:    b 'c' $(touch pwned)\n" in done.stdout
    assert list(stage.logs("one")) == [f"{os.uname().nodename}.log"]
    assert not (stage.repository / "pwned").exists()


def test_several_processes_are_told_of_each_other(stage):
    stage.tool("jaxllm", TELLS)
    done = stage.launch("local", "--processes", "3", "--port", "7", "--env", "A=x", "--", "tiny", *NASTY)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.calls() == [["jaxllm", "train", "tiny", *NASTY]] * 3
    machine = os.uname().nodename
    logs = stage.logs("tiny")
    assert list(logs) == [f"{machine}-{i}.log" for i in range(3)]
    for i in range(3):
        assert f"told: 127.0.0.1:7 3 {i} x\n" in logs[f"{machine}-{i}.log"]


def test_the_first_failure_stops_the_others_and_decides(stage):
    stage.tool(
        "jaxllm",
        f'trap "echo saved; exit 0" TERM; if [[ $JAXLLM_PROCESS == 1 ]]; then exit 6; fi; {GOES_ON}',
    )
    done = stage.launch("local", "--processes", "3", "--", "tiny")
    assert done.returncode == 6
    assert "process 1 ended with status 6: stopping the others" in done.stderr
    assert sum("saved" in log for log in stage.logs("tiny").values()) == 2


@pytest.mark.parametrize(
    "processes, number, status", [(1, signal.SIGINT, 130), (1, signal.SIGTERM, 143), (2, signal.SIGINT, 143)]
)
def test_ctrl_c_reaches_the_training(stage, processes, number, status):
    stage.tool("jaxllm", f'trap "echo saved; exit 0" INT TERM; echo begun; {GOES_ON}')
    process = subprocess.Popen(
        [sys.executable, "launch/run", "local", "--processes", str(processes), "--", "tiny"],
        cwd=stage.repository,
        env=stage.variables(),
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 20
    while sum("begun" in log for log in stage.logs("tiny").values()) < processes:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == status
    assert all("saved" in log for log in stage.logs("tiny").values())


def test_relative_paths_are_those_of_the_current_folder(stage, tmp_path):
    stage.tool("jaxllm", "pwd")
    folder = tmp_path / "it's elsewhere"
    folder.mkdir()
    assert stage.launch("local", "--", "tiny", cwd=folder).stdout.endswith(f"{folder}\n")
    assert (folder / "logs" / "tiny").is_dir()


@pytest.mark.parametrize("processes", ["1", "3"])
def test_the_script_is_clean(stage, processes):
    assert shellcheck(stage.launch("local", "--dry-run", "--processes", processes, "--", "tiny", *NASTY).stdout) == ""


@pytest.mark.parametrize(
    "words, complaint", [(["--processes", "0"], "at least 1"), (["--port", "70000", "--processes=2"], "at most 65535")]
)
def test_bad_numbers(stage, words, complaint):
    done = stage.launch("local", *words, "--", "tiny")
    assert done.returncode == 2 and complaint in done.stderr
    assert stage.calls() == []
