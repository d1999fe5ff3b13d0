"""launch/run skypilot: the task by its schema, what sky is told, and the task's commands as bash executes them."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.launch.stage import NASTY, shellcheck

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "skypilot_task.json").read_text())
RUN = ("--", "tiny", "--run", "gs://b/r")


def task(stage, *words):
    stage.tool("sky", "exit 100")
    done = stage.launch("skypilot", *words)
    assert done.returncode == 100, done.stderr
    (path,) = (stage.repository / "logs").glob("*/task.yaml")
    loaded = yaml.safe_load(path.read_text())
    jsonschema.validate(loaded, SCHEMA)
    return loaded


def test_a_cluster(stage):
    loaded = task(stage, "--gpus", "H100:8", "--infra", "gcp/us-east5", "--down", *RUN)
    path = f"{stage.repository}/logs/r/task.yaml"
    assert stage.calls() == [["sky", "launch", "--cluster", "r", "--down", "--yes", path]]
    assert loaded == {
        "name": "r",
        "workdir": str(stage.repository),
        "num_nodes": 1,
        "resources": {"infra": "gcp/us-east5", "accelerators": "H100:8"},
        "setup": "launch/host.sh install cuda",
        "run": "launch/host.sh run r logs -- tiny --run gs://b/r",
    }


@pytest.mark.parametrize(
    "words, resources",
    [
        (("--spot",), {"use_spot": True}),
        (("--restarts", "3"), {"job_recovery": {"max_restarts_on_errors": 3}}),
        (("--managed",), None),
    ],
)
def test_a_managed_job(stage, words, resources):
    loaded = task(stage, *words, *RUN)
    assert stage.calls() == [["sky", "jobs", "launch", "--name", "r", "--yes", f"{stage.repository}/logs/r/task.yaml"]]
    assert loaded.get("resources") == resources
    assert loaded["setup"] == "launch/host.sh install cpu"


def test_a_tpu(stage):
    loaded = task(stage, "--tpu", "v6e:4x4", *RUN)
    assert loaded["resources"] == {
        "accelerators": "tpu-v6e-16:1",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv6e"},
    }
    assert loaded["setup"] == "launch/host.sh install tpu" and "JAXLLM" not in loaded["run"]


def test_nodes_are_told_of_each_other_and_every_word_arrives(stage):
    loaded = task(stage, "--gpus", "H100:8", "--nodes", "2", "--env", "A=a 'b' $(c)", *RUN, *NASTY)
    stage.tool("jaxllm", 'echo "told: $JAXLLM_COORDINATOR $JAXLLM_PROCESSES $JAXLLM_PROCESS $A"')
    sky = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    done = stage.run(["bash", "-c", loaded["run"]], **sky)
    assert done.stdout.endswith("told: 10.0.0.1:8476 2 1 a 'b' $(c)\n")
    assert stage.calls("jaxllm") == [["jaxllm", "train", "tiny", "--run", "gs://b/r", *NASTY]]


@pytest.mark.parametrize(
    "words, call",
    [
        (("status",), ["status", "r"]),
        (("logs",), ["logs", "r"]),
        (("stop",), ["cancel", "--all", "--yes", "r"]),
        (("delete",), ["down", "--yes", "r"]),
        (("status", "--managed"), ["jobs", "queue"]),
        (("logs", "--managed"), ["jobs", "logs", "--name", "r"]),
        (("delete", "--spot"), ["jobs", "cancel", "--name", "r", "--yes"]),
    ],
)
def test_verbs(stage, words, call):
    stage.tool("sky")
    assert stage.launch("skypilot", *words, "--job", "r").returncode == 0
    assert stage.calls() == [["sky", *call]]


def test_the_script_is_clean(stage):
    assert shellcheck(stage.launch("skypilot", "--dry-run", "--nodes", "2", *RUN, *NASTY).stdout) == ""


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("--nodes", "2", "--", "tiny"), "--nodes 2 has 2 hosts, and the run directory runs/tiny is local to each"),
        (("--tpu", "v6e:4x4", "--", "tiny"), "v6e:4x4 has 4 hosts"),
        (("--spot", "--", "tiny"), "with a managed job is gone with its machines"),
        (("--down", "--", "tiny"), "with --down is gone with its machines"),
        (("--tpu", "v6e:4x4", "--gpus", "H100:8", *RUN), "not allowed with argument"),
        (("--tpu", "tpu7x:2x2x1", *RUN), "launch/run gke"),
        (("--tpu", "v6e:4x4", "--nodes", "2", *RUN), "leave out --nodes"),
        (("--", "no-such", "--run", "gs://b/r"), "there is no experiments/no-such.py"),
    ],
)
def test_what_it_refuses(stage, words, complaint):
    stage.tool("sky")
    done = stage.launch("skypilot", *words)
    assert done.returncode == 2 and complaint in done.stderr
    assert stage.calls() == []
