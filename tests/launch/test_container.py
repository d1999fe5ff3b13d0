"""launch/run container: what docker is told, and the image's description."""

import os
import re
import tarfile

import pytest

from tests.launch.stage import NASTY, REPOSITORY, shellcheck


def test_a_start_in_the_foreground(stage):
    stage.tool("docker", "exit 5")
    done = stage.launch(
        "container", "--env", "A=b 'c' $(d)", "--mount", "/data", "--", "tiny", "--run", "runs/One", *NASTY
    )
    here = str(stage.repository)
    assert done.returncode == 5
    assert stage.calls() == [
        [
            *("docker", "run", "--rm", "--name", "one", "--hostname", "one", "--user", f"{os.getuid()}:{os.getgid()}"),
            *("--env", "HOME=/tmp", "--volume", f"{here}:{here}", "--volume", "/data:/data:ro", "--workdir", here),
            *("--env", "A=b 'c' $(d)", "jaxllm:cpu", "run", "one", f"{here}/logs", "--", "tiny", "--run", "runs/One"),
            *NASTY,
        ]
    ]


@pytest.mark.parametrize(
    "accelerator, devices", [("cuda", ["--gpus", "all"]), ("tpu", ["--privileged", "--network", "host"])]
)
def test_devices(stage, accelerator, devices):
    stage.tool("docker")
    assert stage.launch("container", "--accelerator", accelerator, "--", "tiny").returncode == 0
    (call,) = stage.calls()
    at = call.index(devices[0])
    assert call[at : at + len(devices)] == devices and f"jaxllm:{accelerator}" in call


def test_with_restarts_it_is_detached(stage):
    stage.tool("docker")
    assert stage.launch("container", "--restarts", "3", "--", "tiny").returncode == 0
    assert stage.calls()[0][2:5] == ["--detach", "--restart", "on-failure:3"]


def test_the_image_is_built_from_the_commit_alone(stage):
    stage.tool("docker", 'cat > "$STAGE/context.tar"')
    (stage.repository / "logs").mkdir()
    (stage.repository / "logs" / "secret").touch()
    done = stage.launch("container", "build", "--job", "any", "--accelerator", "tpu", "--image", "registry/x:1")
    assert done.returncode == 0, done.stderr
    commit = stage.run(["git", "rev-parse", "HEAD"]).stdout.strip()
    assert stage.calls() == [
        [
            *("docker", "build", "--file", "launch/Dockerfile", "--build-arg", "ACCELERATOR=tpu", "--label"),
            *(f"org.opencontainers.image.revision={commit}", "--tag", "registry/x:1", "-"),
        ]
    ]
    with tarfile.open(stage.folder / "context.tar") as context:
        names = context.getnames()
    assert "launch/Dockerfile" in names and not any("secret" in name or name.startswith(".git/") for name in names)


def test_a_failed_build_is_an_error(stage):
    stage.tool("docker", "cat > /dev/null; exit 9")
    assert stage.launch("container", "build", "--job", "any").returncode == 9


@pytest.mark.parametrize(
    "verb, call",
    [
        ("push", ["push", "jaxllm:cpu"]),
        ("status", ["ps", "--all", "--filter", "name=^r$"]),
        ("logs", ["logs", "--follow", "r"]),
        ("stop", ["stop", "-t", "600", "r"]),
        ("delete", ["rm", "--force", "r"]),
    ],
)
def test_verbs(stage, verb, call):
    stage.tool("docker")
    assert stage.launch("container", verb, "--job", "r").returncode == 0
    assert stage.calls() == [["docker", *call]]


@pytest.mark.parametrize("run", ["/elsewhere/x", "../x"])
def test_a_run_directory_outside_would_be_gone(stage, run):
    done = stage.launch("container", "--", "tiny", "--run", run)
    assert done.returncode == 2 and f"the run directory {run} lies on the host, and with a container" in done.stderr


def test_the_dockerfile_names_what_exists_and_ends_as_an_ordinary_user():
    text = (REPOSITORY / "launch" / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert sources and all((REPOSITORY / source).exists() for source in sources)
    assert all((REPOSITORY / name).exists() for name in re.findall(r"requirements/\w+\.txt", text))
    assert [line for line in text.splitlines() if line.startswith("USER")][-1] == "USER jaxllm"
    assert text.rstrip().endswith('ENTRYPOINT ["/opt/jaxllm/launch/host.sh"]')


def test_the_scripts_are_clean(stage):
    assert shellcheck(stage.launch("container", "--dry-run", "--", "tiny", *NASTY).stdout) == ""
    for dirty in ((), ("--dirty",)):
        assert shellcheck(stage.launch("container", "build", "--dry-run", "--job", "j", *dirty).stdout) == ""
