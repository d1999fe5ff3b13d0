"""The command line of launch/run: the same everywhere, refused with a way out, and a dry run that does nothing."""

import configparser
import subprocess
import sys

import pytest

from tests.launch.stage import NASTY, REPOSITORY, shellcheck

TOOLS = ("gcloud", "kubectl", "xpk", "sbatch", "squeue", "scancel", "sky", "docker", "jaxllm")
# A start in every place, but for the training.
STARTS = {
    "local": (),
    "container": (),
    "tpu-vm": ("--tpu", "v5p:2x2x2", "--zone", "z"),
    "gke": ("--tpu", "v5p:2x2x2", "--image", "i"),
    "xpk": ("--tpu", "v5p:2x2x2", "--image", "i", "--cluster", "c"),
    "slurm": ("--nodes", "2"),
    "skypilot": ("--nodes", "2"),
}
NEEDED = {
    "container": "docker",
    "tpu-vm": "gcloud",
    "gke": "kubectl",
    "xpk": "xpk",
    "slurm": "sbatch",
    "skypilot": "sky",
}
REMOTE = ("--", "tiny", "--run", "gs://b/r")


def training(place):
    return ("--", "tiny") if place in ("local", "container") else REMOTE


@pytest.mark.parametrize("place", STARTS)
def test_a_dry_run_shows_the_script_and_does_nothing(stage, place):
    for tool in TOOLS:
        stage.tool(tool)
    before = sorted(stage.repository.rglob("*"))
    done = stage.launch(place, *STARTS[place], "--dry-run", "--env", "A=$(touch pwned)", *training(place), *NASTY)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.calls() == []
    assert [path for path in sorted(stage.repository.rglob("*")) if "__pycache__" not in path.parts] == before
    assert shellcheck(done.stdout) == ""
    assert done.stdout.startswith(f"#!/usr/bin/env bash\n# launch/run {place} ")


@pytest.mark.parametrize("place", STARTS)
def test_what_is_executed_is_what_a_dry_run_shows(stage, place):
    for tool in TOOLS:
        stage.tool(tool, "cat > /dev/null; exit 3")
    words = (*STARTS[place], *training(place), *NASTY)
    shown = stage.launch(place, "--dry-run", *words)
    assert stage.launch(place, *words).returncode == 3
    (kept,) = stage.repository.glob("logs/*/start.sh")
    assert kept.read_text() == shown.stdout


@pytest.mark.parametrize("place, tool", NEEDED.items())
def test_a_missing_tool_is_named_with_what_to_install(stage, place, tool):
    done = stage.launch(place, *STARTS[place], *training(place))
    assert done.returncode == 127
    assert done.stderr.startswith(f"error: {tool} is not on the path; install it: ")


@pytest.mark.parametrize("place", STARTS)
def test_every_place_needs_an_experiment(stage, place):
    for words in ((), ("--",), ("--", "--run", "x")):
        done = stage.launch(place, *STARTS[place], *words)
        assert done.returncode == 2
        assert "experiment" in done.stderr and "usage: launch/run PLACE [options] -- EXPERIMENT" in done.stderr


@pytest.mark.parametrize("place", ["tpu-vm", "gke", "xpk"])
def test_spot_and_reserved_are_one_or_the_other(stage, place):
    reserved = ("--reserved",) if place == "tpu-vm" else ("--reserved", "name")
    done = stage.launch(place, *STARTS[place], "--spot", *reserved, *REMOTE)
    assert done.returncode == 2 and "argument --reserved: not allowed with argument --spot" in done.stderr


@pytest.mark.parametrize("place", ["tpu-vm", "gke", "xpk"])
def test_a_tpu_that_does_not_exist(stage, place):
    words = [*STARTS[place], *REMOTE]
    words[1] = "v5p:8x8"
    done = stage.launch(place, *words)
    assert done.returncode == 2 and "there is no TPU slice v5p:8x8" in done.stderr


@pytest.mark.parametrize("place", ["tpu-vm", "gke", "xpk", "skypilot"])
def test_a_local_run_directory_on_several_hosts(stage, place):
    done = stage.launch(place, *STARTS[place], "--", "tiny")
    assert (
        done.returncode == 2
        and "the run directory runs/tiny" in done.stderr
        and "--run gs://BUCKET/tiny" in done.stderr
    )


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["mars", "--", "tiny"], "unknown place 'mars'\nknown: local, container, tpu-vm, gke, xpk, slurm, skypilot"),
        (["tpuvm", "--", "tiny"], "unknown place 'tpuvm', did you mean 'tpu-vm'?"),
        (["local", "tiny"], "an experiment stands after --: launch/run local -- tiny"),
        (["slurm", "statsu", "--job", "j"], "slurm has no verb 'statsu', did you mean 'status'?"),
        (
            ["local", "--steps=3", "--", "tiny"],
            "launch/run local does not know --steps=3; what is for `jaxllm train` stands",
        ),
        (["slurm", "status"], "status which job? launch/run slurm status --job NAME"),
        (["local", "--job", "No_Good", "--", "tiny"], "--job 'No_Good': a job's name is at most 40"),
        (["local", "--env", "A", "--", "tiny"], "--env 'A': a variable is written NAME=VALUE"),
        (["local", "--env", "1A=b", "--", "tiny"], "--env '1A=b': a variable is written NAME=VALUE"),
        (["local", "--proc", "2", "--", "tiny"], "does not know --proc 2"),
        (["local", "--logs", "launch/run", "--", "tiny"], "cannot be written"),
    ],
)
def test_bad_command_lines(stage, words, complaint):
    for tool in TOOLS:
        stage.tool(tool)
    done = stage.launch(*words)
    assert done.returncode == 2 and complaint in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and stage.calls() == []


def test_help_names_every_place_and_verb(stage):
    done = stage.launch("--help")
    assert done.returncode == 0 and all(f"  {place} " in done.stdout for place in STARTS)
    assert stage.launch().returncode == 2
    for place in STARTS:
        shown = stage.launch(place, "--help").stdout
        assert f"launch/run {place} [start|" in shown and "--dry-run" in shown and "--job NAME" in shown


def test_a_job_is_found_by_its_training_too(stage):
    stage.tool("squeue")
    assert stage.launch("slurm", "status", "--", "tiny", "--run", "runs/Mine").returncode == 0
    assert stage.calls() == [["squeue", "--me", "--name=mine"]]


def test_it_needs_nothing_but_python():
    """A login node has no jaxllm: only the standard library may be imported."""
    code = "import sys; import launch.command; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stdout.split())
    assert modules - set(sys.stdlib_module_names) <= {"launch", "__main__"}


def test_it_is_no_part_of_the_package():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    assert config["options.packages.find"]["include"] == "jaxllm, jaxllm.*"
