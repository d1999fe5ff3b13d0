"""launch/run gke: the manifest by its schemas, and what kubectl is told."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from launch.places.gke import kubernetes_text
from tests.launch.stage import NASTY, shellcheck

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "jobset.json").read_text())
START = ("gke", "--tpu", "v5p:4x4x4", "--image", "registry/jaxllm:tpu")
RUN = ("--", "tiny", "--run", "gs://b/r")
EVERYTHING = (
    *("--slices", "2", "--context", "c", "--namespace", "n", "--spot", "--restarts", "9", "--queue", "q"),
    *("--service-account", "s", "--claim", "filestore=/shared", "--grace", "60", "--privileged"),
    *("--env", "A=$(B) 'x'", "--env", "XLA_FLAGS=--a --b"),
)


def expanded(text: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of a word in a container's command, by the rules in its documentation."""
    result, i = "", 0
    while i < len(text):
        if text.startswith("$$", i):
            result, i = result + "$", i + 2
        elif text.startswith("$(", i) and ")" in text[i:]:
            name = text[i + 2 : text.index(")", i)]
            result, i = result + variables.get(name, f"$({name})"), i + len(name) + 3
        else:
            result, i = result + text[i], i + 1
    return result


def manifest(stage, *words: str) -> dict:
    stage.tool("kubectl")
    done = stage.launch(*words)
    assert done.returncode == 0, done.stderr
    (path,) = (stage.repository / "logs").glob("*/jobset.yaml")
    loaded = yaml.safe_load(path.read_text())
    jsonschema.validate(loaded, SCHEMA)
    return loaded


def pod(jobset: dict) -> dict:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_a_plain_start(stage):
    jobset = manifest(stage, *START, *RUN)
    assert stage.calls() == [["kubectl", "apply", "--filename", f"{stage.repository}/logs/r/jobset.yaml"]]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (1, 16, 16, 0)
    assert pod(jobset)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    (container,) = pod(jobset)["containers"]
    assert container["command"] == ["/opt/jaxllm/launch/host.sh", "run", "r", "-", "--", "tiny", "--run", "gs://b/r"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 0


def test_everything_asked_for_is_said(stage):
    jobset = manifest(stage, *START, *EVERYTHING, "--", "tiny", "--run", "/shared/r", *NASTY)
    assert stage.calls()[0][:3] == ["kubectl", "--context=c", "--namespace=n"]
    assert jobset["metadata"]["namespace"] == "n" and jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 9
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2
    spec = pod(jobset)
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert (spec["serviceAccountName"], spec["terminationGracePeriodSeconds"]) == ("s", 60)
    (container,) = spec["containers"]
    assert container["securityContext"] == {"runAsUser": 0, "privileged": True}
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
    assert spec["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "filestore"}}]
    variables = {"B": "replaced", "HOME": "replaced", "touch pwned": "replaced"}
    assert [expanded(entry["value"], variables) for entry in container["env"]] == ["$(B) 'x'", "--a --b"]
    words = [expanded(word, variables) for word in container["command"]]
    assert words == [
        "/opt/jaxllm/launch/host.sh",
        "run",
        "r",
        "/shared/logs",
        "--",
        "tiny",
        "--run",
        "/shared/r",
        *NASTY,
    ]


@pytest.mark.parametrize("text", ["$", "$$", "$(A)", "$$(A)", "a$(A", "${A}", "$$$"])
def test_kubernetes_replaces_nothing(text):
    assert expanded(kubernetes_text(text), {"A": "replaced"}) == text


@pytest.mark.parametrize("words", [(), EVERYTHING])
def test_against_the_published_models(stage, words):
    """Those generated from the definitions of Kubernetes and JobSet; a field unknown there would be lost."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="in requirements/parity.txt")
    jobset = manifest(stage, *START, *words, *RUN)
    assert models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset


def test_a_refused_run_is_not_tried_again(stage):
    jobset = manifest(stage, *START, "--restarts", "5", *RUN)
    (rule,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "train", "operator": "In", "values": [2]},
    }
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@pytest.mark.parametrize(
    "tpu, words, hosts, chips", [("v5e:2x4", (), 1, 8), ("v5e:2x4", ("--chips-per-host", "4"), 2, 4)]
)
def test_hosts_follow_from_the_machines(stage, tpu, words, hosts, chips):
    jobset = manifest(stage, "gke", "--tpu", tpu, "--image", "i", *words, *RUN)
    assert jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] == hosts
    assert pod(jobset)["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips


def test_logs_are_shown_and_kept_by_pod(stage):
    lines = ["[pod/r-slice-0-0-abc/train] one two", "[pod/r-slice-0-1-def/train]   indented", "no prefix"]
    stage.tool("kubectl", f"printf '%s\\n' {' '.join(map(repr, lines))}; exit 4")
    done = stage.launch("gke", "logs", "--job", "r", "--namespace", "n")
    assert (done.returncode, done.stdout.splitlines()) == (4, lines)
    assert stage.logs("r") == {"r-slice-0-0-abc.log": "one two\n", "r-slice-0-1-def.log": "  indented\n"}
    assert stage.calls() == [
        [
            *(
                "kubectl",
                "--namespace=n",
                "logs",
                "--selector",
                "jobset.sigs.k8s.io/jobset-name=r",
                "--follow",
                "--prefix",
            ),
            *("--tail=-1", "--ignore-errors", "--max-log-requests=10000"),
        ]
    ]


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_delete(stage, verb):
    stage.tool("kubectl", "exit 3")
    assert stage.launch("gke", verb, "--job", "r").returncode == 3
    assert stage.calls() == [["kubectl", "delete", "jobset", "r"]]


def test_a_refused_manifest_is_an_error(stage):
    stage.tool("kubectl", "echo refused >&2; exit 1")
    done = stage.launch(*START, *RUN)
    assert (done.returncode, done.stderr) == (1, "refused\n")
    assert "submitted" not in done.stdout


def test_the_scripts_are_clean(stage):
    assert shellcheck(stage.launch(*START, "--dry-run", *EVERYTHING, *RUN, *NASTY).stdout) == ""
    for verb in ("logs", "status", "delete"):
        assert shellcheck(stage.launch("gke", verb, "--dry-run", "--job", "r").stdout) == ""


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("gke", "--image", "i", *RUN), "needs --tpu KIND:TOPOLOGY"),
        (("gke", "--tpu", "v5p:4x4x4", *RUN), "and --image NAME"),
        (
            (*START, "--", "tiny"),
            "with a pod is gone when that ends: keep it in an object store, --run gs://BUCKET/tiny",
        ),
        ((*START, "--claim", "a=/b", "--", "tiny", "--run", "/c/x"), "is gone when that ends"),
        ((*START, "--claim", "a", *RUN), "a claim is mounted as CLAIM=/PATH"),
        ((*START, "--chips-per-host", "3", *RUN), "--chips-per-host 3 does not divide the 64 chips of v5p:4x4x4"),
        ((*START, "--spot", "--reserved", "x", *RUN), "--reserved: not allowed with argument --spot"),
        ((*START, "--restarts", "-1", *RUN), "no whole number of at least 0"),
    ],
)
def test_what_it_refuses(stage, words, complaint):
    stage.tool("kubectl")
    done = stage.launch(*words)
    assert done.returncode == 2 and complaint in done.stderr
    assert stage.calls() == [] and not (stage.repository / "logs").exists()
