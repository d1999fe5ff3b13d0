"""The source that hosts get is a commit, or exactly the working tree, and asking for it changes nothing."""

import tarfile

import pytest

START = ("tpu-vm", "--tpu", "v5e:2x4", "--zone", "z")


def change(stage):
    """An edited, a deleted, a staged, an untracked and an ignored file."""
    root = stage.repository
    (root / "experiments" / "tiny.py").write_text("edited\n")
    (root / "launch" / "Dockerfile").unlink()
    (root / "staged.py").write_text("staged\n")
    stage.run(["git", "add", "staged.py"])
    (root / "un tracked.py").write_text("new\n")
    (root / "runs").mkdir()
    (root / "runs" / "big").touch()


def sent(stage, *words):
    """The files of the archive, by name."""
    stage.tool("docker", 'cat > "$STAGE/context.tar"')
    done = stage.launch("container", "build", "--job", "j", *words)
    assert done.returncode == 0, done.stderr
    with tarfile.open(stage.folder / "context.tar") as archive:
        return {entry.name: archive.extractfile(entry).read().decode() for entry in archive if entry.isfile()}


def test_a_clean_tree_is_its_commit(stage):
    files = sent(stage)
    tracked = stage.run(["git", "ls-files"]).stdout.split()
    assert sorted(files) == sorted(tracked)


@pytest.mark.parametrize("words", [START, ("container", "build", "--job", "j"), ("skypilot",)])
def test_a_changed_tree_is_refused(stage, words):
    change(stage)
    for tool in ("gcloud", "docker", "sky"):
        stage.tool(tool)
    after = () if "build" in words else ("--", "tiny")
    done = stage.launch(*words, *after)
    assert done.returncode == 2
    assert "the working tree differs from its commit" in done.stderr and "--dirty" in done.stderr
    assert " M experiments/tiny.py" in done.stderr and "un tracked.py" in done.stderr
    assert stage.calls() == [] and not (stage.repository / "logs").exists()


def test_a_changed_tree_can_be_sent_as_it_is(stage):
    change(stage)
    before = stage.run(["git", "status", "--porcelain"]).stdout
    files = sent(stage, "--dirty")
    assert files["experiments/tiny.py"] == "edited\n" and files["un tracked.py"] == "new\n"
    assert files["staged.py"] == "staged\n" and "launch/Dockerfile" not in files and "runs/big" not in files
    assert stage.run(["git", "status", "--porcelain"]).stdout == before
    assert stage.run(["git", "stash", "list"]).stdout == ""
    commit = stage.run(["git", "rev-parse", "HEAD"]).stdout.strip()
    assert f"revision={commit}-dirty" in " ".join(stage.calls("docker")[0])


def test_without_a_repository(stage):
    (stage.repository / ".git").rename(stage.folder / "git")
    done = stage.launch(*START, "--", "tiny")
    assert done.returncode == 2 and "is no git repository with a commit to send" in done.stderr


def test_without_git(stage):
    (stage.folder / "bin" / "git").unlink()
    done = stage.launch(*START, "--", "tiny")
    assert done.returncode == 2 and "git is not on the path; install it" in done.stderr
