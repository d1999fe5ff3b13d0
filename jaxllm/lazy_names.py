"""Names of a package that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(names: dict[str, Any], home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package. `names` are its globals(), `home` says where each name lives."""

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {names['__name__']!r} has no attribute {name!r}")
        names[name] = value = getattr(import_module(home[name]), name)  # the next use finds it at once
        return value

    return get, lambda: sorted({*names, *home})
