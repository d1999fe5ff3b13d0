"""launch/run xpk: what xpk is told, and what a pod's bash makes of the command in the manifest that xpk writes."""

import subprocess

import pytest
import yaml

from tests.launch.stage import NASTY, shellcheck
from tests.launch.test_gke import expanded

START = ("xpk", "--cluster", "c", "--tpu", "v5e:16x16", "--image", "registry/jaxllm:tpu")
RUN = ("--", "tiny", "--run", "gs://b/r")


def test_a_start_with_everything(stage):
    stage.tool("xpk", "exit 5")
    words = ("--slices", "2", "--project", "p", "--zone", "z", "--priority", "high", "--spot", "--restarts", "4")
    assert stage.launch(*START, *words, *RUN).returncode == 5
    assert stage.calls() == [
        [
            *("xpk", "workload", "create", "--workload=r", "--cluster=c", "--project=p", "--zone=z"),
            *("--tpu-type=v5litepod-16x16", "--num-slices=2", "--docker-image=registry/jaxllm:tpu", "--max-restarts=4"),
            *("--termination-grace-period-seconds=300", "--priority=high", "--spot"),
            "--command=/opt/jaxllm/launch/host.sh run r - -- tiny --run gs://b/r",
        ]
    ]


def test_every_word_arrives_through_the_manifest(stage, tmp_path):
    stage.tool("xpk")
    assert stage.launch(*START, "--env", "A=a 'b' $(c)", *RUN, *NASTY).returncode == 0
    (call,) = stage.calls()
    command = call[-1].removeprefix("--command=")
    assert "\n" not in command
    # xpk puts it into a block of text in the manifest; Kubernetes then replaces $(NAME), and bash gets the rest.
    text = yaml.safe_load(f"command:\n- bash\n- -c\n- |\n  echo begin;\n  ({command}) & PID=$!;\n  wait $PID\n")[
        "command"
    ][2]
    heard = tmp_path / "heard"
    text = expanded(text, {"HOME": "replaced", "c": "replaced"}).replace("/opt/jaxllm/launch/host.sh", str(heard))
    heard.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$A" "$@"\n')
    heard.chmod(0o755)
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=True, cwd=tmp_path)
    words = ["a 'b' $(c)", "run", "r", "-", "--", "tiny", "--run", "gs://b/r", *NASTY, ""]
    assert done.stdout.decode().removeprefix("begin\n").split("\0") == words
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "verb, words",
    [
        ("status", ["workload", "list", "--cluster=c", "--filter-by-job=r"]),
        ("delete", ["workload", "delete", "--workload=r", "--cluster=c"]),
        ("stop", ["workload", "delete", "--workload=r", "--cluster=c"]),
    ],
)
def test_verbs(stage, verb, words):
    stage.tool("xpk")
    assert stage.launch("xpk", verb, "--cluster", "c", "--job", "r").returncode == 0
    assert stage.calls() == [["xpk", *words]]


def test_logs_come_through_kubectl(stage):
    stage.tool("kubectl", "echo '[pod/r-slice-job-0-0-x/jax-tpu] hello'")
    assert stage.launch("xpk", "logs", "--cluster", "c", "--job", "r").returncode == 0
    assert stage.calls()[0][:4] == ["kubectl", "logs", "--selector", "xpk.google.com/workload=r"]
    assert stage.logs("r") == {"r-slice-job-0-0-x.log": "hello\n"}


def test_the_script_is_clean(stage):
    assert shellcheck(stage.launch("xpk", "--dry-run", *START[1:], *RUN, *NASTY).stdout) == ""


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("xpk", "--tpu", "v5e:4x4", "--image", "i", *RUN), "required: --cluster"),
        (("xpk", "--cluster", "c", *RUN), "needs --tpu"),
        ((*START, "--", "tiny"), "with a pod is gone when that ends"),
        ((*START, "--priority", "urgent", *RUN), "invalid choice: 'urgent'"),
    ],
)
def test_what_it_refuses(stage, words, complaint):
    stage.tool("xpk")
    done = stage.launch(*words)
    assert done.returncode == 2 and complaint in done.stderr
    assert stage.calls() == []
