"""Files and directories that are there as a whole or not at all, or that one process writes to at a time."""

import fcntl
import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class Written(io.RawIOBase):
    """A file being written, and the digest of what it holds so far."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def new_file(path: Path, *, lasting: bool = True) -> Iterator[Written]:
    """Gives a file to write; when the `with` block ends without an error, it appears at `path`.

    lasting: it is on the disk by then, and so survives a loss of power too; what only an unfinished run needs does not
    wait for that.

    If the block raises, nothing is left, and an OSError without a file's name gets that of `path`. A process that
    is killed leaves at most a file whose name begins with a dot.
    """
    # Two processes of different machines may write the same file at the same time: both then write the same bytes.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            yield Written(file)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        put_in_place(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise


def put_in_place(unfinished: Path, path: Path) -> None:
    """The moment at which a file is there."""
    os.replace(unfinished, path)


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
