"""launch/prepare: the scripts of each place, and the batch script under stand-ins for Slurm and Ray."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from launch.preparing import render
from tests.launch.stage import NASTY, shellcheck

WORDS = ["--", "stdlib", "--out", "/shared/web 1", *NASTY]
KUBERAY = ["kuberay", "--image", "r/jaxllm:1", "--ray-version", "2.60.0", "--claim", "files=/shared"]


def manifest(*words):
    text, _ = render([*KUBERAY, *words, *WORDS])
    shellcheck(text)
    return yaml.safe_load(text.partition("<<'END_OF_FILE'\n")[2].partition("\nEND_OF_FILE")[0])


def test_kuberay():
    job = manifest("--workers", "8", "--cpus", "4", "--memory", "9Gi", "--restarts", "3", "--spot", "--namespace", "n")
    assert (job["apiVersion"], job["kind"], job["metadata"]) == (
        "ray.io/v1",
        "RayJob",
        {"name": "web-1", "namespace": "n"},
    )
    spec = job["spec"]
    assert shlex.split(spec["entrypoint"]) == [
        "python3",
        "-m",
        "jaxllm",
        "data",
        "prepare",
        *WORDS[1:],
        "--engine",
        "ray",
    ]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (3, True)
    cluster = spec["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["rayStartParams"]) == (8, {"num-cpus": "4"})
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group, spot in ((cluster["headGroupSpec"], False), (workers, True)):
        pod = group["template"]["spec"]
        assert pod["containers"][0]["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
        assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "files"}}]
        assert ("nodeSelector" in pod) == spot
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "9Gi"}


def stand_ins(folder, **tools):
    for name, body in tools.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, _ = render(["slurm", "--nodes", "3", "--cpus", "64", "--time", "1-0", "--sbatch-flag=--mem=0", *WORDS])
    shellcheck(text)
    told = 'printf "%s\\0" "$@" > told'
    (tmp_path / "bin").mkdir()
    environment = stand_ins(tmp_path / "bin", sbatch=told, scontrol="printf 'n1\\nn2\\nn3\\n'", srun=told)
    subprocess.run(["bash", "-c", text], env=environment, check=True)
    batch = tmp_path / "logs/web-1/job.sbatch"
    submitted = (tmp_path / "told").read_text().split("\0")[:-1]
    assert submitted == [
        *("--job-name=web-1", "--nodes=3", "--ntasks-per-node=1", "--exclusive", "--cpus-per-task=64", "--time=1-0"),
        *(f"--chdir={tmp_path}", f"--output={tmp_path}/logs/web-1/slurm-%j.log", "--mem=0", str(batch)),
    ]
    shellcheck(batch.read_text())
    environment |= {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_NUM_NODES": "3"}
    subprocess.run(["bash", str(batch)], env=environment, check=True)
    ran = (tmp_path / "told").read_text().split("\0")[:-1]
    assert ran[ran.index("ray") :] == [
        *("ray", "symmetric-run", "--address", "n1:6379", "--min-nodes", "3", "--"),
        *("python3", "-m", "jaxllm", "data", "prepare", *WORDS[1:], "--engine", "ray"),
    ]


def test_ray(tmp_path):
    text, dry_run = render(["ray", "--dry-run", "--address", "http://head:8265", *WORDS])
    assert dry_run
    shellcheck(text)
    environment = stand_ins(tmp_path, ray='printf "%s\\0" "$@" > "$TOLD"') | {"TOLD": str(tmp_path / "told")}
    subprocess.run(["bash", "-c", text], env=environment, check=True)
    told = (tmp_path / "told").read_text().split("\0")[:-1]
    assert told[:4] == ["job", "submit", "--address", "http://head:8265"]
    assert Path(told[told.index("--working-dir") + 1], "jaxllm").is_dir()
    assert json.loads(told[told.index("--metadata-json") + 1]) == {"name": "web-1"}
    assert told[told.index("--") + 1 :] == ["python3", "-m", "jaxllm", "data", "prepare", *WORDS[1:], "--engine", "ray"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["moon", *WORDS], "unknown place 'moon'\nknown: ray, slurm, kuberay"),
        (["ray"], "which recipe? launch/prepare ray"),
        (["ray", "--", "stdlib"], "name the output directory, on a file system that all nodes share"),
        (["ray", "--", "stdlib", "--out", "x", "--engine=local"], "the engine is ray here"),
        (["ray", "--gpus", "3", *WORDS], "launch/prepare ray does not know --gpus 3"),
        ([*KUBERAY, "--", "stdlib", "--out", "/tmp/x"], "--out /tmp/x would be lost with its pod"),
        ([*KUBERAY[:-1], "files", *WORDS], "a claim is mounted as CLAIM=/PATH"),
    ],
)
def test_what_can_not_be_launched(words, message):
    with pytest.raises(ValueError) as error:
        render(words)
    assert message in str(error.value)
