"""The corpus that every CPython carries with it: its own documentation, and its source code.

Two installations of one version give the same text, as far as they were built with the same optional modules: paths,
memory addresses, the environment and the link to the online manual are left out or replaced.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxllm.data.documents import Document, DocumentError

LIBRARY = Path(sysconfig.get_path("stdlib"))

_PROGRAM = Path(__file__).with_name("stdlib_pages.py")

# Rendering takes three seconds on one core; a module that waits for something must not wait for ever.
_TIMEOUT_SECONDS = 300

# What the dynamic loader and an unusually placed Python need to start; everything else of the environment would show
# in the pages, for `os.environ` is documented with its content.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")

_TEST_FOLDERS = {"test", "tests", "idle_test"}

_log = logging.getLogger(__name__)


def stdlib_documents(include_source: bool = False) -> Iterator[Document]:
    """Yields the standard library's documentation, always in the same order.

    First `pydoc/NAME`, the plain-text page of each public top-level module that can be imported; then `topics/NAME`,
    the language reference as `help()` shows it; with include_source also `source/PATH.py`, every Python file of the
    library but its tests. The pages are made in a process of its own, which can neither write nor connect.

    On CPython 3.11 these are 210 pages (5.2 MB; 4.1 MB where Tk is missing), 79 topics (0.5 MB), 727 files (11 MB).
    Raises DocumentError if this Python comes without its documentation.
    """
    yield from pages()
    yield from topics()
    if include_source:
        yield from source(LIBRARY, source_files(LIBRARY))


def pages() -> Iterator[Document]:
    """pydoc's page of each module."""
    for line in _render_pages().splitlines():
        row = json.loads(line)
        if "skipped" in row:
            _log.info("no page of module %s: %s", row["name"], row["skipped"])
        else:
            yield Document(f"pydoc/{row['name']}", row["text"])


def _render_pages() -> bytes:
    """What stdlib_pages.py prints, in a Python that knows nothing of this environment and of installed packages."""
    isolated = ["-s", "-S", "-P", "-B", "-X", "utf8"]
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # Hashes decide the order of sets, and the time zone is documented with the module `time`.
    environment |= {"PYTHONHASHSEED": "0", "TZ": "UTC"}
    try:
        child = subprocess.run(
            [sys.executable, *isolated, os.fspath(_PROGRAM)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise DocumentError(
            f"pydoc's pages of the standard library were not made within {_TIMEOUT_SECONDS} seconds; "
            "train on a text of your own instead (data.path)"
        ) from error
    if child.returncode:
        last_words = child.stderr.decode("utf-8", errors="replace")[-2000:]
        raise DocumentError(
            f"{sys.executable} failed to make pydoc's pages of the standard library (exit status {child.returncode}); "
            f"train on a text of your own instead (data.path), or use another Python\n{last_words}"
        )
    return child.stdout


def topics() -> Iterator[Document]:
    """The language reference."""
    try:
        from pydoc_data.topics import topics as texts
    except ModuleNotFoundError as error:
        raise DocumentError(
            "this Python comes without the language reference (module pydoc_data.topics); "
            "train on a text of your own instead (data.path), or use another Python"
        ) from error
    for name in sorted(texts):
        yield Document(f"topics/{name}", texts[name])


def source_files(library: Path) -> list[str]:
    """The library's Python files but its tests, as paths below its folder, sorted."""
    found = []
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).parts):
        parts = path.relative_to(library).parts
        # Installed packages and the build's own configuration lie in the same folder, but are no standard modules;
        # pydoc_data is the topics again.
        top = parts[0].removesuffix(".py")
        if top in sys.stdlib_module_names and top != "pydoc_data" and _TEST_FOLDERS.isdisjoint(parts):
            found.append("/".join(parts))
    return found


def source(library: Path, files: Iterable[str]) -> Iterator[Document]:
    """These files of the library, as documents."""
    for name in files:
        with tokenize.open(library / name) as file:
            yield Document(f"source/{name}", file.read())
