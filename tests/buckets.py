"""Buckets for tests: folders behind etils' own backend for gs://."""

from pathlib import Path

from etils.epath import backend, gpath


class Bucket(backend._OsPathBackend):
    """gs://NAME/x is ROOT/x."""

    def __init__(self, root: Path):
        self.root = root

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        here = lambda value: str(self.root / str(value).split("://", 1)[1]) if "://" in str(value) else value  # noqa: E731
        return lambda *values, **named: found(*[here(value) for value in values], **named)


def play_buckets(root: Path, monkeypatch) -> None:
    """Until the test ends, gs://NAME is the folder NAME of `root`."""
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Bucket(root))
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
