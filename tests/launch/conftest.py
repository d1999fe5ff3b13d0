import shutil
import signal

import pytest

from tests.launch import stage as stages


@pytest.fixture(scope="session")
def empty_stage(tmp_path_factory):
    return stages.build(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def stage(empty_stage, tmp_path):
    """A stage of the test's own: making a repository anew takes longer than copying one."""
    shutil.copytree(empty_stage.folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    return stages.Stage(tmp_path, tmp_path / "repository")


@pytest.fixture(autouse=True)
def interruptible():
    """A program that a shell runs in the background ignores Ctrl-C, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
