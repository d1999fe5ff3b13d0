"""launch/run slurm: what sbatch is told, and the batch script under stand-ins for srun, scontrol and scancel."""

import signal
import subprocess
import time

import pytest

from tests.launch.stage import GOES_ON, NASTY, shellcheck

# As srun does: the command, once for each task, with its number.
SRUN = """
while [[ $1 == --* ]]; do shift; done
status=0
for ((i = 0; i < ${TASKS:-1}; i++)); do SLURM_PROCID=$i JAXLLM_HOST=n$i "$@" || status=$?; done
exit $status
"""
SRUN_ONE = """
while [[ $1 == --* ]]; do shift; done
echo $$ > "$STAGE/task"
SLURM_PROCID=0 JAXLLM_HOST=n0 exec "$@"
"""
TELLS = 'echo "told: ${JAXLLM_COORDINATOR:-} ${JAXLLM_PROCESSES:-} ${JAXLLM_PROCESS:-}"'


def submit(stage, *words):
    stage.tool("sbatch", "echo Submitted batch job 7")
    done = stage.launch("slurm", *words)
    assert done.returncode == 0, done.stderr
    (path,) = stage.repository.glob("*/*/job.sbatch")
    return path


def test_a_submission_with_everything(stage):
    words = ("--nodes", "2", "--gpus", "8", "--cpus", "64", "--time", "1-0", "--partition", "p", "--account", "a")
    more = ("--qos", "q", "--constraint", "h100&ib", "--reservation", "r", "--sbatch-flag=--mem=0", "--restarts", "3")
    submit(stage, *words, *more, "--logs", "100% logs", "--", "tiny")
    logs = f"{stage.repository}/100% logs/tiny"
    assert stage.calls() == [
        [
            *(
                "sbatch",
                "--job-name=tiny",
                "--nodes=2",
                "--ntasks-per-node=1",
                "--gpus-per-node=8",
                "--cpus-per-task=64",
            ),
            *("--time=1-0", "--partition=p", "--account=a", "--qos=q", "--constraint=h100&ib", "--reservation=r"),
            f"--chdir={stage.repository}",
            f"--output={logs.replace('%', '%%')}/slurm-%j.log",
            *("--open-mode=append", "--requeue", "--signal=B:USR1@300", "--mem=0", f"{logs}/job.sbatch"),
        ]
    ]


def test_one_node_needs_no_coordinator(stage):
    path = submit(stage, "--", "tiny", *NASTY)
    assert "--no-requeue" in stage.calls("sbatch")[0]
    stage.tool("srun", SRUN)
    stage.tool("jaxllm", f"{TELLS}; exit 6")
    assert stage.run(["bash", str(path)], SLURM_JOB_ID="7").returncode == 6
    assert stage.calls("srun")[0][:4] == ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=600"]
    assert stage.calls("jaxllm") == [["jaxllm", "train", "tiny", *NASTY]]
    assert "told:   \n" in stage.logs("tiny")["n0.log"]


def test_nodes_are_told_of_each_other(stage):
    path = submit(stage, "--nodes", "3", "--port", "99", "--env", "A=x y", "--", "tiny", *NASTY)
    stage.tool("scontrol", "printf 'first\\nsecond\\nthird\\n'")
    stage.tool("srun", SRUN)
    stage.tool("jaxllm", f'{TELLS} "$A"')
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[0-2]", "SLURM_JOB_NUM_NODES": "3", "TASKS": "3"}
    assert stage.run(["bash", str(path)], **slurm).returncode == 0
    assert stage.calls("scontrol") == [["scontrol", "show", "hostnames", "n[0-2]"]]
    assert stage.calls("jaxllm") == [["jaxllm", "train", "tiny", *NASTY]] * 3
    for i, log in enumerate(stage.logs("tiny").values()):
        assert f"told: first:99 3 {i} x y\n" in log
    assert not (stage.repository / "pwned").exists()


@pytest.mark.parametrize("restarted, requeued", [("0", True), ("1", True), ("2", False)])
def test_before_the_time_limit_it_saves_and_queues_again(stage, restarted, requeued):
    path = submit(stage, "--restarts", "2", "--", "tiny")
    stage.tool("scontrol")
    stage.tool("scancel", 'kill -TERM "$(cat "$STAGE/task")"')
    stage.tool("srun", SRUN_ONE)
    stage.tool("jaxllm", f"trap 'echo saved; exit 0' TERM; touch begun; {GOES_ON}")
    process = subprocess.Popen(
        ["bash", str(path)],
        cwd=stage.repository,
        env=stage.variables(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarted),
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 20
    while not (stage.repository / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == (0 if requeued else 143)
    assert stage.calls("scancel") == [["scancel", "--signal=TERM", "7"]]
    assert stage.calls("scontrol") == ([["scontrol", "requeue", "7"]] if requeued else [])
    assert "saved" in stage.logs("tiny")["n0.log"]


@pytest.mark.parametrize(
    "verb, call",
    [
        ("status", ["squeue", "--me", "--name=j"]),
        ("stop", ["scancel", "--me", "--name=j", "--signal=TERM"]),
        ("delete", ["scancel", "--me", "--name=j"]),
    ],
)
def test_verbs(stage, verb, call):
    stage.tool(call[0], "exit 3")
    assert stage.launch("slurm", verb, "--job", "j").returncode == 3
    assert stage.calls() == [call]


@pytest.mark.parametrize("run", ["runs/x", "gs://b/x", "{here}/x", "/shared/x"])
def test_run_directories_that_all_nodes_see(stage, run):
    run = run.format(here=stage.repository)
    done = stage.launch("slurm", "--nodes", "2", "--shared", "/shared", "--dry-run", "--", "tiny", "--run", run)
    assert done.returncode == 0


@pytest.mark.parametrize("run", ["/tmp/x", "../x", "/sharedx"])
def test_run_directories_that_they_may_not_see(stage, run):
    done = stage.launch("slurm", "--nodes", "2", "--shared", "/shared", "--", "tiny", "--run", run)
    assert done.returncode == 2
    assert f"this job has 2 hosts, and the run directory {run} is local to each of them" in done.stderr
    assert "say which with --shared DIR" in done.stderr


@pytest.mark.parametrize("nodes", ["1", "3"])
def test_the_scripts_are_clean(stage, nodes):
    path = submit(stage, "--nodes", nodes, "--restarts", "1", "--", "tiny", *NASTY)
    assert shellcheck(path.read_text()) == ""
    assert shellcheck((path.parent / "start.sh").read_text()) == ""
