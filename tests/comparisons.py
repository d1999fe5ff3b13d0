"""Which tests compare with other implementations: those that would skip themselves, or a part, without these."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

# How such a test says so: it imports the other implementation, or skips with a reason that names the requirements.
_SIGN = re.compile(r"importorskip|requirements/parity")


def compares(item: pytest.Function) -> bool:
    """Whether the test says so itself, or its module for all in it, or a fixture or function that it uses."""
    whole_module, signs = signs_of(Path(item.fspath))
    if whole_module:
        return True
    fixtures = item._fixtureinfo.name2fixturedefs
    definitions = {Path(found.func.__code__.co_filename) for name in fixtures for found in fixtures[name]}
    named = {item.originalname, *fixtures}
    return any(named & signs_of(path)[1] for path in definitions) or bool(named & signs)


@cache
def signs_of(path: Path) -> tuple[bool, frozenset[str]]:
    """Whether a module does so when it is imported; else its functions that do, or that name one that does."""
    if not path.is_file() or path.suffix != ".py":
        return False, frozenset()
    source = path.read_text(encoding="utf-8")
    lines, body = source.splitlines(), ast.parse(source).body

    def text(node: ast.stmt) -> str:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        return "\n".join(lines[first - 1 : node.end_lineno])

    functions = {node.name: text(node) for node in body if isinstance(node, ast.FunctionDef)}
    others = [node for node in body if not isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom)]
    # A mark with a name of its own, as `needs_torch = pytest.mark.skipif(...)`, is no import of the module.
    marks = {
        node.targets[0].id
        for node in others
        if isinstance(node, ast.Assign) and _SIGN.search(text(node)) and "skipif" in text(node)
    } - {"pytestmark"}
    whole = any(_SIGN.search(text(node)) and not _docstring(node) and not _is_mark(node, marks) for node in others)
    found = marks | {name for name, code in functions.items() if _SIGN.search(code)}
    while True:
        using = {n for n, code in functions.items() if any(re.search(rf"\b{other}\b", code) for other in found)}
        if using <= found:
            return whole, frozenset(found)
        found |= using


def _docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_mark(node: ast.stmt, marks: set[str]) -> bool:
    return isinstance(node, ast.Assign) and node.targets[0].id in marks
