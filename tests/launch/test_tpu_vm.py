"""launch/run tpu-vm: every call of gcloud, and what happens when the TPU or the connection is lost."""

import pytest

from tests.launch.stage import NASTY, shellcheck

START = ("tpu-vm", "--tpu", "v5p:2x2x2", "--zone", "z")
RUN = ("--", "tiny", "--run", "gs://b/r")
# Cloud TPU, for one TPU: `states` holds what describe says next, the last for ever; `follows` how follow ends.
GCLOUD = r"""
next() { # FILE: its first line, which is dropped unless it is the last
  head -n 1 "$STAGE/$1"
  if (($(wc -l < "$STAGE/$1") > 1)); then tail -n +2 "$STAGE/$1" > "$STAGE/$1.new" && mv "$STAGE/$1.new" "$STAGE/$1"; fi
}
case "$4 $*" in
  describe*)
    state=$(next states)
    if [[ $state == ABSENT ]]; then echo "ERROR: (gcloud) NOT_FOUND: Resource 'r' was not found" >&2; exit 1; fi
    if [[ $state == DENIED ]]; then echo "ERROR: (gcloud) PERMISSION_DENIED" >&2; exit 8; fi
    echo "$state"
    ;;
  create* | delete* | scp*) exit "$(cat "$STAGE/$4.status" 2> /dev/null || echo 0)" ;;
  ssh*follow*)
    echo "[t-0] step 1"
    echo "[t-1] step 1"
    exit "$(next follows)"
    ;;
  ssh*) exit "$(cat "$STAGE/ssh.status" 2> /dev/null || echo 0)" ;;
esac
"""


# `python3 -m venv FOLDER`, with the stand-in of pip as every program in it.
MAKES_AN_ENVIRONMENT = r"""
if [[ $2 == venv ]]; then
  mkdir -p "$3/bin"
  for name in python jaxllm; do
    cat "$STAGE/bin/pip" > "$3/bin/$name"
    chmod +x "$3/bin/$name"
  done
fi
"""


@pytest.fixture
def cloud(stage):
    """The stage with that gcloud, and a sleep that only says for how long."""
    stage.tool("gcloud", GCLOUD)
    stage.tool("sleep")

    def says(states, follows=("0",)):
        (stage.folder / "states").write_text("\n".join(states) + "\n")
        (stage.folder / "follows").write_text("\n".join(follows) + "\n")
        return stage

    return says


def verbs(stage):
    """What was asked of gcloud, in short."""
    short = []
    for call in stage.calls("gcloud"):
        verb = call[4]
        short.append(next((f"ssh {word}" for word in ("follow", "install") if f" {word} " in call[-1]), verb))
    return [verb for verb in short if verb != "describe"]


def test_every_call_of_a_start(cloud):
    stage = cloud(["ABSENT", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    done = stage.launch(*START, "--project", "p", "--spot", "--env", "A=b 'c'", *RUN, *NASTY)
    assert done.returncode == 0, done.stderr
    gcloud, where = ["gcloud", "compute", "tpus", "queued-resources"], ["--zone=z", "--project=p"]
    everywhere = ["--node=all", "--worker=all", "--batch-size=all", *where]
    calls = [call for call in stage.calls("gcloud") if call[4] != "describe"]
    source = f"{stage.repository}/logs/r/source.tar.gz"
    assert calls[:2] == [
        [
            *(*gcloud, "create", "r", *where, "--accelerator-type=v5p-16", "--runtime-version=v2-alpha-tpuv5"),
            *("--node-id=r", "--spot"),
        ],
        [*gcloud, "scp", source, "r:jaxllm-r.tar.gz", *everywhere],
    ]
    assert [call[:-1] for call in calls[2:]] == [[*gcloud, "ssh", "r", *everywhere]] * 2
    assert calls[3][-1] == "--command=jaxllm/r/launch/host.sh follow r jaxllm/r/logs"
    assert stage.calls("gcloud")[0] == [*gcloud, "describe", "r", *where, "--format=value(state.state)"]
    assert stage.calls("sleep") == [["sleep", "30"]] * 3
    assert "TPU r: WAITING_FOR_RESOURCES" in done.stderr
    assert done.stdout == "[t-0] step 1\n[t-1] step 1\n"
    assert stage.logs("r") == {"t-0.log": "step 1\n", "t-1.log": "step 1\n"}


def test_what_a_host_executes(cloud, tmp_path):
    """The remote command, as the bash of a host's login executes it."""
    stage = cloud(["ACTIVE"])
    assert stage.launch(*START, "--env", "A=b 'c' $(touch pwned)", *RUN, *NASTY).returncode == 0
    (remote,) = [call[-1].removeprefix("--command=") for call in stage.calls("gcloud") if "install" in call[-1]]
    home = tmp_path / "home"
    home.mkdir()
    (home / "jaxllm-r.tar.gz").write_bytes((stage.repository / "logs" / "r" / "source.tar.gz").read_bytes())
    stale, kept = home / "jaxllm/r/jaxllm/stale.py", home / "jaxllm/r/runs/x/config.json"
    for path in (stale, kept):
        path.parent.mkdir(parents=True)
        path.touch()
    stage.tool("pip")
    stage.tool("python3", MAKES_AN_ENVIRONMENT)
    (stage.folder / "jaxllm.does").write_text('echo "A is $A"')
    done = stage.run(["bash", "-c", remote], cwd=home, HOME=str(home), JAXLLM_HOST="t")
    assert done.returncode == 0, done.stderr
    follow = "jaxllm/r/launch/host.sh follow r jaxllm/r/logs"
    done = stage.run(["bash", "-c", follow], cwd=home, HOME=str(home), JAXLLM_HOST="t")
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (
        0,
        ["[t] A is b 'c' $(touch pwned)", "[t] r ended with status 0"],
    )
    assert stage.calls("jaxllm") == [["jaxllm", "train", "tiny", "--run", "gs://b/r", *NASTY]]
    assert (home / "jaxllm" / "r" / "logs" / "r" / "t.log").is_file()
    assert kept.exists() and not stale.exists()
    assert not list(tmp_path.rglob("pwned"))


def test_one_that_is_there_is_used_again(cloud):
    stage = cloud(["ACTIVE"])
    assert stage.launch(*START, *RUN).returncode == 0
    assert verbs(stage) == ["scp", "ssh install", "ssh follow"]


@pytest.mark.parametrize(
    "words, flags",
    [
        (("--reserved",), ["--node-id=r", "--reserved"]),
        (("--slices", "2"), ["--node-count=2", "--node-prefix=r"]),
        (
            ("--runtime", "v9", "--create-flag=--network=my net"),
            ["--runtime-version=v9", "--node-id=r", "--network=my net"],
        ),
    ],
)
def test_kinds_of_requests(cloud, words, flags):
    stage = cloud(["ABSENT", "ACTIVE"])
    assert stage.launch(*START, *words, *RUN).returncode == 0
    (create,) = [call for call in stage.calls("gcloud") if call[4] == "create"]
    assert create[-len(flags) :] == flags


def test_at_once_is_a_tpu_vm(cloud):
    stage = cloud(["ABSENT", "CREATING", "READY"])
    assert (
        stage.launch("tpu-vm", "--tpu", "v4:4x4x16", "--zone", "z", "--at-once", "--internal-ip", *RUN).returncode == 0
    )
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    calls = stage.calls("gcloud")
    assert calls[0] == [*vm, "describe", "r", "--zone=z", "--format=value(state)"]
    assert calls[1] == [
        *vm,
        "create",
        "r",
        "--zone=z",
        "--type=v4",
        "--topology=4x4x16",
        "--version=tpu-ubuntu2204-base",
    ]
    assert calls[-1][4:] == [
        *("ssh", "r", "--worker=all", "--zone=z", "--internal-ip"),
        "--command=jaxllm/r/launch/host.sh follow r jaxllm/r/logs",
    ]


def test_a_preempted_tpu_is_had_anew_and_the_run_goes_on(cloud):
    stage = cloud(["ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"], follows=["255", "0"])
    done = stage.launch(*START, "--restarts", "1", *RUN)
    assert done.returncode == 0, done.stderr
    once = ["scp", "ssh install", "ssh follow"]
    assert verbs(stage) == [*once, "delete", "create", *once]
    (delete,) = [call for call in stage.calls("gcloud") if call[4] == "delete"]
    assert delete[4:] == ["delete", "r", "--zone=z", "--force", "--quiet"]


def test_one_preempted_before_it_was_looked_at_is_had_anew(cloud):
    stage = cloud(["SUSPENDED", "ABSENT", "ACTIVE"])
    assert stage.launch(*START, "--restarts", "1", *RUN).returncode == 0
    assert verbs(stage)[:2] == ["delete", "create"]


def test_restarts_are_counted(cloud):
    stage = cloud(["ACTIVE", "SUSPENDED", "SUSPENDED", "ACTIVE", "SUSPENDED"], follows=["143"])
    done = stage.launch(*START, "--restarts", "1", *RUN)
    assert done.returncode == 1
    assert "error: the TPU r is SUSPENDED: --restarts N would have it anew" in done.stderr
    assert verbs(stage).count("delete") == 1 and verbs(stage).count("ssh follow") == 2


def test_a_lost_connection_is_made_again(cloud):
    stage = cloud(["ACTIVE"], follows=["255", "0"])
    done = stage.launch(*START, *RUN)
    assert done.returncode == 0
    assert "the connection to r was lost: looking on" in done.stderr
    assert verbs(stage) == ["scp", "ssh install", "ssh follow", "ssh follow"]


@pytest.mark.parametrize("status", ["1", "2", "137"])
def test_a_failed_training_is_not_tried_again(cloud, status):
    stage = cloud(["ACTIVE"], follows=[status])
    assert stage.launch(*START, "--restarts", "5", *RUN).returncode == int(status)
    assert verbs(stage) == ["scp", "ssh install", "ssh follow"]


def test_a_stopped_training_is_not_begun_again(cloud):
    stage = cloud(["ACTIVE"], follows=["143"])
    assert stage.launch(*START, "--restarts", "5", *RUN).returncode == 143
    assert verbs(stage) == ["scp", "ssh install", "ssh follow"]


def test_a_deleted_tpu_is_not_had_anew(cloud):
    stage = cloud(["ACTIVE", "ABSENT"], follows=["255"])
    done = stage.launch(*START, "--restarts", "5", *RUN)
    assert done.returncode == 1 and "the TPU r was deleted" in done.stderr
    assert "create" not in verbs(stage)


@pytest.mark.parametrize("step, done_before", [("create", []), ("scp", ["create"]), ("ssh", ["create", "scp"])])
def test_a_step_that_fails_ends_it_with_its_own_status(cloud, step, done_before):
    stage = cloud(["ABSENT", "ACTIVE"])
    (stage.folder / f"{step}.status").write_text("7")
    assert stage.launch(*START, *RUN).returncode == 7
    assert verbs(stage)[:-1] == done_before


def test_what_gcloud_can_not_tell_ends_it(cloud):
    stage = cloud(["DENIED"])
    done = stage.launch(*START, *RUN)
    assert (done.returncode, done.stderr) == (8, "ERROR: (gcloud) PERMISSION_DENIED\n")
    assert verbs(stage) == []


@pytest.mark.parametrize(
    "verb, last",
    [
        ("stop", ["ssh", "r", "--command=jaxllm/r/launch/host.sh stop r jaxllm/r/logs"]),
        ("status", ["ssh", "r", "--command=jaxllm/r/launch/host.sh status r jaxllm/r/logs"]),
        ("logs", ["ssh", "r", "--command=jaxllm/r/launch/host.sh follow r jaxllm/r/logs"]),
        ("delete", ["delete", "r", "--zone=z", "--force", "--quiet"]),
    ],
)
def test_verbs(cloud, verb, last):
    stage = cloud(["ACTIVE"], follows=["4"])
    assert stage.launch("tpu-vm", verb, "--zone", "z", "--job", "r").returncode == (4 if verb == "logs" else 0)
    call = stage.calls("gcloud")[-1][4:]
    assert call == last or [call[0], call[1], call[-1]] == last


def test_the_scripts_are_clean(stage):
    for words in ((), ("--at-once",), ("--dirty",), ("--slices", "2", "--restarts", "3")):
        assert shellcheck(stage.launch(*START, "--dry-run", *words, *RUN, *NASTY).stdout) == ""
    for verb in ("stop", "status", "logs", "delete"):
        assert shellcheck(stage.launch("tpu-vm", verb, "--dry-run", "--zone", "z", "--job", "r").stdout) == ""


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("tpu-vm", "--tpu", "v5e:2x4", *RUN), "required: --zone"),
        (("tpu-vm", "--zone", "z", *RUN), "which TPU? --tpu KIND:TOPOLOGY"),
        (
            ("tpu-vm", "--zone", "z", "--tpu", "tpu7x:4x4x4", *RUN),
            "only offered by GKE: launch/run gke --tpu tpu7x:4x4x4",
        ),
        (("tpu-vm", "--zone", "z", "--tpu", "v5p:4x4x32", *RUN), "the topology 8x8x8; 4x4x32 is had on GKE"),
        ((*START, "--at-once", "--slices", "2", *RUN), "leave out --at-once"),
        ((*START, "--", "tiny"), "v5p:2x2x2 has 2 hosts, and the run directory runs/tiny is local to each of them"),
        (("tpu-vm", "--zone", "z", "--tpu", "v5e:2x4", "--spot", "--", "tiny"), "with --spot is lost"),
        (("tpu-vm", "--zone", "z", "--tpu", "v5e:2x4", "--restarts", "1", "--", "tiny"), "with --restarts a new TPU"),
        ((*START, "--", "missing", "--run", "gs://b/r"), "there is no experiments/missing.py"),
    ],
)
def test_what_it_refuses(cloud, words, complaint):
    stage = cloud(["ACTIVE"])
    done = stage.launch(*words)
    assert done.returncode == 2 and complaint in done.stderr
    assert stage.calls() == [] and not (stage.repository / "logs").exists()
