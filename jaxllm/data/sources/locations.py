"""Files wherever they lie: on this machine, or at any address that fsspec knows (gs://, s3://, hf://, memory://)."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jaxllm.data.documents import DocumentError

# What stores say of a file that changes with its content, the best first.
_VERSIONS = ("ETag", "etag", "sha256", "md5Hash", "crc32c", "mtime", "LastModified", "last_modified", "created")

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A file, with its path below the folder that was searched, by which its documents are named."""

    path: str
    name: str
    num_bytes: int
    version: str


def is_remote(path: str) -> bool:
    return bool(_ADDRESS.match(path))


def open_location(path: str) -> BinaryIO:
    """Opens a file for reading bytes; it can be sought in. Raises OSError, and DocumentError for an unknown store."""
    if not is_remote(path):
        return open(path, "rb")
    store, inside = _store(path)
    return store.open(inside, "rb")


def find_locations(path: str, wanted: Callable[[str], bool], supported: str) -> list[Location]:
    """The wanted files that a file's, folder's or glob's path stands for, in the order of their names.

    wanted: whether a file's path says that it is of a supported kind. supported: the kinds, for messages.
    Raises DocumentError for a path that leads nowhere, and where nothing is wanted.
    """
    path = os.path.expanduser(os.fspath(path).removeprefix("file://"))
    search = _search_store if is_remote(path) else _search_disk
    single, searched, found = search(path)
    if single and not wanted(found[0][1]):
        raise DocumentError(f"{path}: is of no supported kind; supported are {supported}")
    kept = [file for file in sorted(found) if wanted(file[1])]
    if not kept:
        raise DocumentError(f"{searched} {len(found)} files, none of them of a supported kind: {supported}")
    return [_on_disk(name, file) if info is None else _in_store(name, file, info) for name, file, info in kept]


# What a search gives: whether the path is one file, how to begin a message, and (name, path, what a store says of it).
_Found = tuple[bool, str, list[tuple[str, str, dict | None]]]


def _on_disk(name: str, path: str) -> Location:
    try:
        state = os.stat(path)
    except OSError as error:
        raise DocumentError(f"{path}: can't be read: {error.strerror}") from error
    return Location(path, name, state.st_size, f"{state.st_size}-{state.st_mtime_ns}")


def _in_store(name: str, path: str, info: dict) -> Location:
    size = info.get("size") or 0
    stamp = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return Location(path, name, size, f"{size}-{stamp}")


def _search_disk(path: str) -> _Found:
    if os.path.isfile(path):
        return True, "", [(os.path.basename(path), path, None)]
    if os.path.isdir(path):
        root, files, searched = path, _walk(path), f"{path}: the folder holds"
    elif glob.has_magic(path):
        root = _fixed_part(path)
        matches = glob.glob(path, recursive=True)
        if not matches:
            raise DocumentError(f"{path}: no file matches this pattern")
        files = {file for match in matches for file in (_walk(match) if os.path.isdir(match) else [match])}
        searched = f"{path}: the pattern matches"
    else:
        raise DocumentError(f"{path}: no such file or folder")
    return False, searched, [(Path(os.path.relpath(file, root)).as_posix(), file, None) for file in files]


def _search_store(path: str) -> _Found:
    store, inside = _store(path)
    try:
        if store.isfile(inside):
            return True, "", [(inside.rpartition("/")[2], path, store.info(inside))]
        if store.isdir(inside):
            root, infos, searched = inside, store.find(inside, detail=True), f"{path}: the folder holds"
        elif glob.has_magic(inside):
            root = _fixed_part(inside)
            matches = store.glob(inside, detail=True)
            if not matches:
                raise DocumentError(f"{path}: no file matches this pattern")
            infos = {}
            for match, info in matches.items():
                infos |= store.find(match, detail=True) if info["type"] == "directory" else {match: info}
            searched = f"{path}: the pattern matches"
        else:
            raise DocumentError(f"{path}: no such file or folder")
    except OSError as error:
        raise DocumentError(f"{path}: can't be listed: {error}") from error
    named = [(file.removeprefix(root).lstrip("/"), store.unstrip_protocol(file), info) for file, info in infos.items()]
    return False, searched, [row for row in named if not any(part.startswith(".") for part in row[0].split("/"))]


def _store(path: str):
    """The file system of an address, and the path inside it."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:  # the package of a store is missing, or there is no such store
        raise DocumentError(f"{path}: {error}") from error


def _walk(folder: str) -> Iterable[str]:
    """Every visible file below a folder, links followed, each real folder entered once."""

    def refuse(error: OSError):
        raise DocumentError(f"{error.filename}: can't be listed: {error.strerror}") from error

    files, entered = [], {os.path.realpath(folder)}
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=refuse):
        enter = []
        for subfolder in sorted(subfolders):
            real = os.path.realpath(os.path.join(parent, subfolder))
            if not subfolder.startswith(".") and real not in entered:
                entered.add(real)
                enter.append(subfolder)
        subfolders[:] = enter
        files += [os.path.join(parent, name) for name in names if not name.startswith(".")]
    return files


def _fixed_part(pattern: str) -> str:
    """The folder in front of the first path component with a wildcard."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return str(fixed)
