"""A directory that is there as a whole or not at all, or that one process writes to at a time."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """Gives an empty directory to fill; when the `with` block ends, it is synced and renamed to `directory`.

    If the block raises, what was written is removed and `directory` stays as it was. A process that is killed leaves
    at most a hidden directory beside it. Raises FileExistsError if `directory` is there already and not empty.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise FileExistsError(f"{directory} already exists; open it, name another directory, or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The scratch directory is made beside the target, since a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        staged = Path(scratch) / directory.name
        staged.mkdir()
        yield staged
        for parent, _, names in os.walk(staged):
            for name in names:
                _sync(os.path.join(parent, name))
            _sync(parent)
        os.rename(staged, directory)
        _sync(directory.parent)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keeps other processes that ask for it out of a directory; the kernel lets go when this one ends, however it ends.

    The directory itself is locked: a file made for it would have to be removed, and one that is removed while another
    process waits for it is locked by both. Raises ValueError while another process is there.
    """
    opened = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing to {directory}: wait for it, or name another directory"
            ) from error
        yield
    finally:
        os.close(opened)


def _sync(path: str | Path) -> None:
    """Waits until a file's or directory's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
