"""What a chat template may do with strings: each operation looks at its result's size first, and keeps the marks.

These are Jinja's filters and Python's methods that templates of published models use. Left out are those that make text
of unbounded size in ways that can't be foreseen, that are random, or that are for web pages.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import SandboxedFormatter

from jaxllm.tokenizers.chat.marked_text import MarkedText, join, mark_of, marks_of, spread
from jaxllm.tokenizers.chat.template_budget import Stopped, current

# Widths, precisions and depths of indentation beyond this are no formatting.
_WIDEST = 1000

# Taking a string apart makes many small ones.
_CHARACTERS_PER_STEP = 16

_UNCHANGED_FILTERS = """
    abs capitalize count d default dictsort first float groupby int items last length list lower map max min reject
    rejectattr reverse select selectattr sort title truncate unique upper wordcount
"""
# Filters of Jinja whose result is never much larger than what they are given; these give back one of the things given.
_CHOOSING_FILTERS = {"d", "default", "first", "last", "max", "min"}
# These make a string of each character where they are given a string.
_APART_FILTERS = {"batch", "groupby", "list", "map", "max", "min", "reject", "select", "slice", "sort", "unique"}

_METHODS = {
    str: """
        capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit
        isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition
        removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
        strip swapcase title upper zfill
    """,
    dict: "get items keys values copy",
    list: "index count copy",
    tuple: "index count",
}


def as_text(value: Any) -> str:
    """What printing a value gives."""
    return value if isinstance(value, str) else spread(str(value), mark_of(value))


def concatenate(parts: Iterable[Any]) -> str:
    """The texts one after the other."""
    parts = [as_text(part) for part in parts]
    current().string(sum(map(len, parts)))
    return join("", parts)


def operate(sign: str, left: Any, right: Any) -> Any:
    """left + right, left * right, left % right, or left ** right."""
    budget = current()
    budget.step()
    match sign, left, right:
        case "+", str(), str():
            return concatenate((left, right))
        case "+", list() | tuple(), list() | tuple():
            return budget.container(left + right)
        case "*", int(), int():
            budget.number(left.bit_length() + right.bit_length())
        case ("*", str() | list() | tuple(), int()) | ("*", int(), str() | list() | tuple()):
            return _repeat(right, left) if isinstance(left, int) else _repeat(left, right)
        case "**", int(), int():
            budget.number(left.bit_length() * abs(right))
        case "%", str(), _:
            return _percent(left, right)
    return {"+": operator.add, "*": operator.mul, "%": operator.mod, "**": operator.pow}[sign](left, right)


def call_method(environment, method: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Calls a method of a string, list, tuple or dict. Raises SecurityError for one that is not offered."""
    owner, name = method.__self__, method.__name__
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if kind is None or name not in _METHODS[kind].split():
        raise SecurityError(f"the method {name!r} of a {type(owner).__name__} is not offered to templates")
    if kind is not str:
        return current().container(method(*args, **kwargs)) if name == "copy" else method(*args, **kwargs)
    mark = mark_of((owner, args, kwargs))
    if name == "format":
        _check_format(owner, "{", (args, kwargs))
        return _result(SandboxedFormatter(environment).vformat(str.__str__(owner), args, kwargs), mark)
    if name in ("center", "ljust", "rjust", "zfill"):
        _check_width(*args[:1], *kwargs.values())
        return _result(method(*args, **kwargs), mark)
    if name == "join":
        return _join(*args, d=owner, **kwargs)
    if name == "replace":
        return _replace(owner, *args, **kwargs)
    current().string(len(owner))
    if "split" in name:
        current().step(len(owner) // _CHARACTERS_PER_STEP)
    result = method(*args, **kwargs)
    return current().container(result) if isinstance(result, list) else result


def _repeat(value: str | list | tuple, count: int) -> Any:
    if not isinstance(value, str):
        current().step(len(value) * max(count, 0))
        return current().container(value * count)
    current().string(len(value) * max(count, 0))
    return (
        MarkedText(str.__str__(value) * count, value.marks * count) if isinstance(value, MarkedText) else value * count
    )


def _result(value: Any, mark: int) -> Any:
    """A string that has just been made: counted, and marked unless it knows its marks."""
    if isinstance(value, str):
        current().string(len(value))
        return value if isinstance(value, MarkedText) else spread(value, mark)
    return value


def _check_width(*widths: Any) -> None:
    if any(isinstance(width, int | float) and abs(width) > _WIDEST for width in widths):
        raise Stopped(f"it asks for a width of more than {_WIDEST}")


def format_time(time: datetime, pattern: str) -> str:
    """The time as strftime writes it."""
    _check_width(len(pattern))
    _check_format(pattern, "%", ())
    return _result(time.strftime(pattern), mark_of(pattern))


def _check_format(pattern: str, sign: str, values: Any) -> None:
    """Refuses a width that is large, or that another value says; and counts what the result may be at most."""
    current().string(len(pattern) + pattern.count(sign) * max(map(len, map(as_text, _leaves(values))), default=0))
    if sign == "{":
        widths = (spec or "" for _, _, spec, _ in Formatter().parse(pattern))
        hostile = any("{" in spec or re.search(r"\d{4}", spec) for spec in widths)
    else:
        hostile = re.search(r"%(\([^)]*\))?[-#0 +_^]*(\d{4}|\d*\.\d{4}|\d*\.?\*)", pattern)
    if hostile:
        raise Stopped(f"it formats with the pattern {pattern[:80]!r}, whose widths must be below 1000 and written out")


def _leaves(values: Any) -> Iterable[Any]:
    """The values that a pattern is filled with: arguments, and what is in the lists and dicts among them."""
    if isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _leaves(value)
    yield values


def _percent(pattern: str, values: Any) -> str:
    _check_format(pattern, "%", values)
    return _result(str.__str__(pattern) % values, mark_of((pattern, values)))


def _join(value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    parts = []
    for item in value:
        current().step()
        parts.append(as_text(item))
    separator = as_text(d)
    current().string(sum(map(len, parts)) + len(separator) * max(len(parts) - 1, 0))
    return join(separator, parts)


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = as_text(s), as_text(old), as_text(new)
    found = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    current().string(max(len(text) + found * (len(new) - len(old)), len(text)))
    if mark_of((text, new)) and not isinstance(text, MarkedText):
        text = MarkedText(text, marks_of(text))
    return text.replace(old, new, -1 if count is None else count)


def _escape(s: Any) -> str:
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ('"', "&#34;")):
        s = _replace(s, character, name)
    return s


def _trim(value: Any, chars: str | None = None) -> str:
    return as_text(value).strip(chars)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    _check_width(indent, *(len(part) for part in (indent, *(separators or ())) if isinstance(part, str)))
    if indent is not None or separators is not None:
        between = sum(map(len, separators or ())) + (indent if isinstance(indent, int) else len(indent or ""))
        current().string(_items_by_depth(x) * (between + 1))
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _items_by_depth(x: Any) -> int:
    """The number of items in nested lists and dicts, each counted as often as it is nested."""
    total, waiting = 0, [(x, 1)]
    while waiting:
        value, depth = waiting.pop()
        total += depth
        if isinstance(value, list | tuple | dict):
            waiting += [(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value)]
    return total


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_width(width if isinstance(width, int) else len(width))
    lines = s.count("\n") + 1
    current().string(len(s) + lines * (width if isinstance(width, int) else len(width)))
    return FILTERS["indent"](str.__str__(s), width, first, blank)


def _round(value: Any, precision: int = 0, method: str = "common") -> float:
    _check_width(precision)
    return FILTERS["round"](value, precision, method)


def _sum(environment, iterable: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise TypeError(f"sum() adds numbers, and start is {start!r}")
    return FILTERS["sum"](environment, iterable, attribute, start)


_sum.jinja_pass_arg = FILTERS["sum"].jinja_pass_arg


def _guarded(filter_: Callable, chooses: bool, takes_apart: bool) -> Callable:
    """The filter, counting its steps; where it doesn't keep marks itself, its text gets all that went in.

    chooses: whether it gives back one of the things it is given, as it is. takes_apart: whether it looks at each
    character of a string by itself.
    """

    @wraps(filter_)
    def call(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        # Some of Jinja's filters are given the context first.
        given = next((argument for argument in args[:2] if isinstance(argument, str)), "")
        budget.step(1 + (len(given) if takes_apart else 0))
        result = filter_(*args, **kwargs)
        if chooses or any(result is argument for argument in args):
            return result
        if isinstance(result, str):
            return _result(result, mark_of((args, kwargs)))
        return budget.container(result) if isinstance(result, list | tuple | dict) else result

    return call


def _pieces(name: str) -> Callable:
    def cut(value: Any, number: int, fill_with: Any = None) -> Any:
        _check_width(number)
        return FILTERS[name](value, number, fill_with)

    return cut


def _with_attribute(environment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    if attribute is None:
        return _join(value, d)
    return _join((environment.getitem(item, attribute) for item in value), d)


_with_attribute.jinja_pass_arg = FILTERS["sum"].jinja_pass_arg


def template_filters() -> dict[str, Callable]:
    """The filters by name."""
    own: dict[str, Callable] = {
        "batch": _pieces("batch"),
        "e": _escape,
        "escape": _escape,
        "format": lambda value, *args, **kwargs: _percent(as_text(value), kwargs or args),
        "indent": _indent,
        "join": _with_attribute,
        "replace": _replace,
        "round": _round,
        "safe": as_text,
        "slice": _pieces("slice"),
        "string": as_text,
        "sum": _sum,
        "tojson": _tojson,
        "trim": _trim,
    }
    every = {name: FILTERS[name] for name in _UNCHANGED_FILTERS.split()} | own
    return {
        name: _guarded(function, chooses=name in _CHOOSING_FILTERS, takes_apart=name in _APART_FILTERS)
        for name, function in every.items()
    }


def text_of_output(value: Any) -> str:
    """What `{{ value }}` writes."""
    current().step()
    text = as_text(value) if not isinstance(value, Undefined) else str(value)
    current().string(len(text))
    return text
