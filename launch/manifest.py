"""YAML for Kubernetes and SkyPilot: block style, all strings in double quotes, so that none is taken for a number."""

from __future__ import annotations

import json
import re
from typing import Any

# What YAML wants escaped and JSON leaves as it is; the characters are written as numbers, for they can't be seen.
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)?")
# Words that some YAML reader takes for a boolean or null.
RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def to_yaml(value: Any) -> str:
    """A document of dicts, lists, strings, numbers, booleans and None."""
    return "\n".join(_lines(value)) + "\n"


def drop_empty(value: Any) -> Any:
    """`value` without the entries of its dicts that are None or empty: what was not asked for is not said."""
    if isinstance(value, dict):
        kept = {key: drop_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {} and item != []}
    return [drop_empty(item) for item in value] if isinstance(value, list) else value


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines += [f"{_key(key)}:", *(f"  {line}" for line in _lines(item))]
            else:
                lines.append(f"{_key(key)}: {_scalar(item)}")
        return lines
    if isinstance(value, list) and value:
        lines = []
        for item in value:
            first, *rest = _lines(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines
    return [_scalar(value)]


def _key(key: str) -> str:
    return key if PLAIN_KEY.fullmatch(key) and key.lower() not in RESERVED else _scalar(key)


def _scalar(value: Any) -> str:
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
