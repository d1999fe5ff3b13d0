"""Prints pydoc's page of each standard-library module as JSON lines; a program for a process of its own.

It imports nothing of jaxllm and is run by path, isolated from the environment (see jaxllm/data/stdlib.py). Importing
two hundred modules must change nothing outside this process, so an audit hook refuses whatever would write a file,
connect or start a program; a module that insists gets no page.
"""

import importlib
import json
import os
import pydoc
import re
import sys
import warnings

# The first opens a web browser; the other two are the functions of `os` under another name.
_LEFT_OUT = {"antigravity", "nt", "posix"}

_REFUSED = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
}

# `<object object at 0x7f5a1c>`, and `<PyDLL 'None', handle 7f5a1c>` of ctypes.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,16}(?=[>;])|, handle [0-9a-f]{4,16}(?=>)")


class _NeutralRepr(pydoc.TextRepr):
    """Representations that show neither where Python is installed nor the order in which a set happens to lie."""

    def __init__(self, places: dict[str, str]):
        super().__init__()
        self._places = places

    def neutral(self, text: str) -> str:
        text = _ADDRESS.sub("", text)
        for place, name in self._places.items():
            text = text.replace(place, name)
        return text

    def repr1(self, x, level):
        # What has a method here is shortened by it; this must come before the shortening of everything else.
        if hasattr(self, "repr_" + type(x).__name__):
            return super().repr1(x, level)
        return pydoc.cram(self.neutral(repr(x)), self.maxother)

    def repr_string(self, x, level):
        return super().repr_string(self.neutral(x), level)

    repr_str = repr_string

    def repr_set(self, x, level):
        return f"{{{self._elements(x)}}}" if x else "set()"

    def repr_frozenset(self, x, level):
        return f"frozenset({{{self._elements(x)}}})" if x else "frozenset()"

    def _elements(self, x) -> str:
        elements = sorted(self.neutral(repr(element)) for element in x)
        return ", ".join(elements[: self.maxset] + ["..."] * (len(elements) > self.maxset))


class _PageRenderer(type(pydoc.plaintext)):
    """Plain text without the parts that depend on the installation: the file's path and the link to the manual."""

    def __init__(self, places: dict[str, str]):
        self._neutral_repr = _NeutralRepr(places)
        self.repr = self._neutral_repr.repr

    def getdocloc(self, *_args, **_kwargs):
        return None

    def section(self, title, contents):
        return "" if title == "FILE" else super().section(title, contents)

    def page(self, name: str) -> str:
        module = importlib.import_module(name)
        kind = "package" if hasattr(module, "__path__") else "module"
        return f"Help on {kind} {name}:\n\n{self._neutral_repr.neutral(self.docmodule(module))}"


def _refuse_side_effects(event: str, args: tuple) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in _REFUSED:
        raise PermissionError(f"{event} is refused while pages are made")


def _forget_the_process() -> dict[str, str]:
    """Takes the traces of this run out of `os` and `sys`; returns the places that can't be taken out, each renamed."""
    places = {sys.executable: "/usr/bin/python", sys.base_exec_prefix: "/usr", sys.base_prefix: "/usr"}
    os.environ.clear()
    sys.argv, sys.orig_argv = [""], ["python"]
    sys.executable = sys._base_executable = "/usr/bin/python"
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = "/usr"
    return places


def main() -> None:
    # What modules print while they are imported goes to stderr, out of the way of the pages.
    pages = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    renderer = _PageRenderer(_forget_the_process())
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_") and name not in _LEFT_OUT)
    sys.addaudithook(_refuse_side_effects)
    for name in names:
        try:
            row = {"name": name, "text": renderer.page(name)}
        # Each module fails in its own way where it is not at home: for want of Windows, of Tk, of a C library.
        except Exception as error:
            row = {"name": name, "skipped": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), file=pages)
    pages.close()


if __name__ == "__main__":
    main()
