"""launch/host.sh, with a stand-in for jaxllm: what is heard, logged, and returned."""

import os
import signal
import subprocess
import time

import pytest

from tests.launch.stage import GOES_ON, NASTY, REPOSITORY, shellcheck

# A training that saves when it is asked to stop, as jaxllm does, and one that does not hear.
SAVES = f"trap 'echo saved; exit 0' TERM INT; echo begun; {GOES_ON}"
MAKES_AN_ENVIRONMENT = """
if [[ $1 == -m ]]; then mkdir -p "$3/bin"; cat "$STAGE/bin/pip-python" > "$3/bin/python"; chmod +x "$3/bin/python"; fi
"""
DEAF = f"trap '' TERM; echo begun; {GOES_ON}"


def host(stage, *words):
    return [str(stage.repository / "launch" / "host.sh"), *words]


def started(stage, *words, does, **options):
    stage.tool("jaxllm", does)
    process = subprocess.Popen(
        host(stage, *words),
        cwd=stage.repository,
        env=stage.variables(JAXLLM_HOST="h"),
        stdout=subprocess.PIPE,
        **options,
    )
    for line in process.stdout:
        if line == b"begun\n":
            return process
    raise AssertionError("it never began")


def waited(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_it_is_clean():
    assert shellcheck((REPOSITORY / "launch" / "host.sh").read_text()) == ""


def test_every_word_arrives_and_all_output_is_shown_and_kept(stage):
    stage.tool("jaxllm", "echo out; echo err >&2; exit 7")
    done = stage.run(host(stage, "run", "j", "logs", "--", "tiny", *NASTY), JAXLLM_HOST="h")
    assert done.returncode == 7
    assert stage.calls() == [["jaxllm", "train", "tiny", *NASTY]]
    assert done.stdout.endswith("out\nerr\n") and done.stdout.startswith("--- ")
    assert stage.logs("j") == {"h.log": done.stdout}
    assert not (stage.repository / "pwned").exists()


def test_the_log_is_added_to_and_named_after_the_machine(stage):
    stage.tool("jaxllm", "echo once")
    for _ in range(2):
        assert stage.run(host(stage, "run", "j", "logs", "--", "tiny")).returncode == 0
    (log,) = stage.logs("j").values()
    assert list(stage.logs("j")) == [f"{os.uname().nodename}.log"]
    assert log.count("once\n") == 2 and log.count("--- ") == 2


def test_without_a_folder_for_logs_nothing_is_kept(stage):
    stage.tool("jaxllm", "echo out")
    assert stage.run(host(stage, "run", "j", "-", "--", "tiny")).stdout.endswith("out\n")
    assert not (stage.repository / "logs").exists() and not (stage.repository / "-").exists()


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_saves_and_is_not_taken_for_a_finished_one(stage, number, status):
    process = started(stage, "run", "j", "logs", "--", "tiny", does=SAVES)
    process.send_signal(number)
    assert process.wait(10) == status
    assert stage.logs("j")["h.log"].endswith("begun\nsaved\n")


def test_a_training_that_does_not_hear_is_killed_the_second_time(stage):
    process = started(stage, "run", "j", "logs", "--", "tiny", does=DEAF)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    end = time.monotonic() + 10
    while process.poll() is None:  # signals that come in quick succession are one
        assert time.monotonic() < end
        process.terminate()
        time.sleep(0.1)
    assert process.returncode == 137


def test_a_killed_training_is_told_of(stage):
    stage.tool("jaxllm", "kill -KILL $$")
    assert stage.run(host(stage, "run", "j", "logs", "--", "tiny")).returncode == 137


def test_detached_it_goes_on_is_followed_and_is_started_once(stage):
    stage.tool(
        "jaxllm",
        "if [[ -f go ]]; then echo done; exit 3; fi; "
        "echo begun; until [[ -f go ]]; do sleep 0.05; done; echo done; exit 3",
    )
    begin = host(stage, "start", "j", "logs", "--", "tiny", *NASTY)
    assert stage.run(begin, JAXLLM_HOST="h").stdout == "j started on h\n"
    waited(lambda: stage.calls("jaxllm"))
    assert stage.run(begin, JAXLLM_HOST="h").stdout == "j already runs on h\n"
    assert stage.run(host(stage, "status", "j", "logs"), JAXLLM_HOST="h").returncode == 0
    follower = subprocess.Popen(
        host(stage, "follow", "j", "logs"),
        cwd=stage.repository,
        env=stage.variables(JAXLLM_HOST="h"),
        stdout=subprocess.PIPE,
        text=True,
    )
    (stage.repository / "go").touch()
    shown = follower.communicate(timeout=20)[0]
    assert follower.returncode == 3
    assert "[h] begun\n" in shown and shown.endswith("[h] done\n[h] j ended with status 3\n")
    assert stage.calls() == [["jaxllm", "train", "tiny", *NASTY]]
    status = stage.run(host(stage, "status", "j", "logs"), JAXLLM_HOST="h")
    assert (status.returncode, status.stdout) == (1, "[h] j does not run; last status: 3\n")
    # Followed again, it says the same; started again, the log goes on but only what is new is shown.
    assert stage.run(host(stage, "follow", "j", "logs"), JAXLLM_HOST="h").stdout == shown
    stage.run(begin, JAXLLM_HOST="h")
    again = stage.run(host(stage, "follow", "j", "logs"), JAXLLM_HOST="h")
    assert again.returncode == 3 and "begun" not in again.stdout and "[h] done\n" in again.stdout


def test_detached_it_can_be_stopped(stage):
    stage.tool("jaxllm", SAVES)
    stage.run(host(stage, "start", "j", "logs", "--", "tiny"), JAXLLM_HOST="h")
    waited(lambda: "begun" in stage.logs("j").get("h.log", ""))
    assert stage.run(host(stage, "stop", "j", "logs"), JAXLLM_HOST="h").returncode == 0
    assert stage.run(host(stage, "follow", "j", "logs"), JAXLLM_HOST="h").returncode == 143
    assert "saved" in stage.logs("j")["h.log"]
    done = stage.run(host(stage, "stop", "j", "logs"), JAXLLM_HOST="h")
    assert (done.returncode, done.stderr) == (1, "error: j does not run on h\n")


def test_the_repository_s_own_environment_comes_first(stage):
    stage.tool("jaxllm", "echo from the path")
    own = stage.repository / ".venv" / "bin" / "jaxllm"
    own.parent.mkdir(parents=True)
    own.write_text("#!/usr/bin/env bash\necho its own\n")
    own.chmod(0o755)
    assert stage.run(host(stage, "run", "j", "-", "--", "tiny")).stdout.endswith("its own\n")


def test_installation_is_of_what_is_pinned(stage):
    stage.tool("pip-python")
    stage.tool("python3.12", MAKES_AN_ENVIRONMENT)
    assert stage.run(host(stage, "install", "tpu")).returncode == 0
    requirements = f"{stage.repository}/requirements"
    pip = ["python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    assert [call for call in stage.calls() if "pip" in call] == [
        [
            *pip,
            *(word for name in ("base", "build", "tpu") for word in ("--requirement", f"{requirements}/{name}.txt")),
        ],
        [*pip, "--no-deps", "--no-build-isolation", "--editable", str(stage.repository)],
    ]
    for name in ("base", "build", "tpu", "cuda", "host"):
        lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
        assert all("==" in line for line in lines if not line.startswith("#"))


def test_where_every_python_is_too_old_uv_brings_one(stage):
    stage.tool("python3", "if [[ $1 == -c ]]; then exit 1; fi; if [[ $3 == install ]]; then exit 5; fi")
    done = stage.run(host(stage, "install", "cpu"))
    assert stage.calls()[-1] == [
        *("python3", "-m", "pip", "install", "--user", "--requirement", f"{stage.repository}/requirements/host.txt")
    ]
    assert done.returncode == 127 and "uv could not be installed" in done.stderr


@pytest.mark.parametrize(
    "words, status, complaint",
    [
        ([], 2, "unknown ''"),
        (["dance"], 2, "unknown 'dance'"),
        (["install"], 2, "install for what?"),
        (["install", "gpu"], 2, "install for what?"),
        (["run", "j"], 2, "needs a job and a folder for logs"),
        (["run", "j", "logs"], 2, "no experiment"),
        (["run", "j", "logs", "--"], 2, "no experiment"),
        (["run", "j", "logs", "--", "tiny"], 127, "jaxllm is not installed on h; install it: "),
        (["start", "j", "logs", "--", "tiny"], 127, "jaxllm is not installed on h; install it: "),
        (["follow", "j", "logs"], 2, "j was never started on h"),
    ],
)
def test_what_it_refuses(stage, words, status, complaint):
    done = stage.run(host(stage, *words), JAXLLM_HOST="h")
    assert done.returncode == status
    assert complaint in done.stderr
