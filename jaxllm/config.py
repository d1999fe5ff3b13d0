"""What every config shares: loading an experiment file, overrides from the command line, JSON, comparison.

A config is a frozen dataclass of plain values (int, float, bool, str, Literal, None), tuples of them and other
configs, with a string under each field that says what it means. Nothing here knows any particular one.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import count
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

C = TypeVar("C")
Migration = Callable[[dict[str, Any]], dict[str, Any]]

# MIGRATIONS[1] takes the JSON object of a version 1 config and returns that of version 2, and so on.
MIGRATIONS: dict[int, Migration] = {}

EXPERIMENT_MODULES = "jaxllm_experiment_"
"""How the names of modules begin that were made from experiment files; no other process can import them."""
_module_numbers = count()


# Experiment files


def load_experiment(
    name_or_path: str | Path, cls: type[C], *, function: str = "experiment", folder: str = "experiments"
) -> C:
    """The config that an experiment file's `experiment()` returns; other kinds of files have other names for it.

    `name_or_path` is a path that ends in .py, or the name of a file in experiments/, looked for in the working
    directory and in the repository that jaxllm is installed from. Raises ValueError, naming the file, if there is
    none, if it fails, or if it returns anything but a `cls`.
    """
    path = _find_experiment(name_or_path, function, folder)
    module = _execute(path)
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"{path} defines no function {function}(); it must return the run's {cls.__name__}")
    try:
        config = make()
    except Exception as error:
        raise ValueError(f"{path}: {function}() failed{_where(error, path)}: {_describe(error)}") from error
    if not isinstance(config, cls):
        raise ValueError(
            f"{path}: {function}() returned a value of type {type(config).__name__}; it must return a {cls.__name__}"
        )
    return config


def experiments(function: str = "experiment", folder: str = "experiments") -> dict[str, Path]:
    """Every experiment file within reach, by name; of two namesakes, that in the working directory."""
    found: dict[str, Path] = {}
    for place in _experiment_folders(folder):
        for path in sorted(place.rglob("*.py")):
            if re.search(rf"^(def {function}\b|{function}\b.*=)", path.read_text(errors="replace"), re.MULTILINE):
                found.setdefault(path.relative_to(place).with_suffix("").as_posix(), path)
    return found


def _experiment_folders(folder: str) -> list[Path]:
    return [Path(folder), Path(__file__).resolve().parent.parent / folder]


def _find_experiment(name_or_path: str | Path, function: str, folder: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"there is no {function} file {path}")
        return path
    for place in _experiment_folders(folder):
        candidate = place / f"{name_or_path}.py"
        if candidate.is_file():
            return candidate
    known = experiments(function, folder)
    listing = ", ".join(known) if known else f"none in {folder}/ here, none beside jaxllm"
    raise ValueError(
        f"unknown {function} {str(name_or_path)!r}{did_you_mean(str(name_or_path), known)}\nknown: {listing}"
    )


def _execute(path: Path) -> Any:
    name = f"{EXPERIMENT_MODULES}{next(_module_numbers)}_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up to resolve annotations
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} can't be loaded{_where(error, path)}: {_describe(error)}") from error
    return module


def _where(error: Exception, path: Path) -> str:
    """The last line of the file that the error passed through."""
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    here = path.resolve()
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == here]
    return f" (line {lines[-1]})" if lines else ""


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause for error messages that names what is spelled most like `name`; empty if nothing is."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


# Overrides from the command line


def apply_overrides(config: C, arguments: Sequence[str], prog: str = "jaxllm") -> C:
    """`config` with changes such as `--model.num_layers=6`, `--data.path X`, `--a.flag=false`, `--a.betas=0.9,0.95`.

    All are applied before the config checks itself, so their order does not matter. `--help` prints every option with
    its current value. An unknown option or a bad value ends the program with status 2 and one message that names it.
    """
    import tyro

    changed = tyro.cli(
        type(config),
        default=config,
        args=list(arguments),
        prog=prog,
        use_underscores=True,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
        registry=_command_line_types(),
    )
    if getattr(changed, "version", None) != getattr(config, "version", None):
        print("error: --version says which jaxllm wrote a config; it can't be chosen", file=sys.stderr)
        raise SystemExit(2)
    return changed


@cache
def _command_line_types() -> Any:
    """Adds to tyro: `true` and `false` as they are in JSON, and tuples separated by commas as well as by spaces."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def boolean(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{true,false}",
            instance_from_str=lambda texts: _parse(bool, texts[0]),
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value).lower()],
        )

    @registry.primitive_rule
    def plain_tuple(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        kinds = get_args(info.type)
        if get_origin(info.type) is not tuple or any(k not in (int, float, str, bool, ...) for k in kinds):
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar=",".join("..." if k is ... else k.__name__.upper() for k in kinds),
            instance_from_str=lambda texts: _parse_tuple(kinds, texts),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [
                ",".join(str(v).lower() if isinstance(v, bool) else str(v) for v in value)
            ],
        )

    return registry


def _parse(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected {kind.__name__}, got {text!r}") from None


def _parse_tuple(kinds: tuple[Any, ...], texts: list[str]) -> tuple[Any, ...]:
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(f"expected {len(kinds)} values, got {len(parts)}")
    return tuple(_parse(kind, part) for kind, part in zip(kinds, parts, strict=True))


# JSON


def to_json(config: Any) -> str:
    """The config as JSON; `from_json` gives back an equal one. Raises ValueError on inf and nan, which JSON lacks."""
    return json.dumps(_converter().unstructure(config), indent=2, ensure_ascii=False, allow_nan=False)


def from_json(
    text: str, cls: type[C], *, source: str = "config", migrations: Mapping[int, Migration] = MIGRATIONS
) -> C:
    """The config of class `cls` that `to_json` wrote. Fields that are absent take their default.

    If `cls` has a field `version`, its default is the current version: an older config goes through `migrations`, a
    newer one is refused. Raises ValueError that starts with `source` and names the dotted path of everything that is
    unknown, missing or of the wrong type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON (line {error.lineno}: {error.msg})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} holds a {type(values).__name__}, not a config")
    current = {f.name: f.default for f in fields(cls)}.get("version")
    if current is not None:
        values = _migrate(values, current, source, migrations)
    try:
        return _converter().structure(values, cls)
    except Exception as error:
        problems = _problems(error, "")
        raise ValueError(
            f"{source}: {problems[0]}" if len(problems) == 1 else f"{source}:\n  " + "\n  ".join(problems)
        ) from error


def _migrate(values: dict[str, Any], current: int, source: str, migrations: Mapping[int, Migration]) -> dict[str, Any]:
    version = values.get("version")
    if type(version) is not int:
        raise ValueError(f"{source} has no version number: it is not a config that jaxllm wrote")
    if version > current:
        raise ValueError(
            f"{source} was written by a newer jaxllm: config version {version}, this one reads up to {current}; "
            "upgrade jaxllm"
        )
    for old in range(version, current):
        if old not in migrations:
            raise ValueError(
                f"{source} has config version {version}, which this jaxllm (version {current}) no longer reads"
            )
        values = {**migrations[old](values), "version": old + 1}
    return values


@cache
def _converter() -> Any:
    """cattrs made strict: left alone it reads "3" and 3.7 as the int 3, and "ab" as the tuple ("a", "b")."""
    import cattrs

    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, _plain)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _one_of)

    @converter.register_structure_hook_factory(lambda kind: get_origin(kind) is tuple)
    def tuples(kind: Any) -> Callable[[Any, Any], Any]:
        return lambda value, _: _tuple(value, get_args(kind), converter)

    @converter.register_structure_hook_factory(_is_choice)
    def choices(kind: Any) -> Callable[[Any, Any], Any]:
        return lambda value, _: _choice(value, get_args(kind), converter)

    @converter.register_unstructure_hook_factory(_is_choice)
    def of_choices(kind: Any) -> Callable[[Any], Any]:
        return lambda value: converter.unstructure(value, type(value))

    @converter.register_structure_hook_factory(is_dataclass)
    def configs(cls: Any) -> Callable[[Any, Any], Any]:
        structure = cattrs.gen.make_dict_structure_fn(cls, converter)
        return lambda value, _: structure(_of_type(dict, value, f"the fields of {cls.__name__}"), cls)

    return converter


def _plain(value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    return _of_type(kind, value, kind.__name__)


def _of_type(kind: type, value: Any, expected: str) -> Any:
    if type(value) is not kind:  # not isinstance: True is an int
        raise ValueError(f"expected {expected}, got {json.dumps(value)}")
    return value


def _one_of(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        listing = ", ".join(json.dumps(choice) for choice in choices)
        close = did_you_mean(str(value), map(str, choices))
        raise ValueError(f"expected one of {listing}, got {json.dumps(value)}{close}")
    return value


def _is_choice(kind: Any) -> bool:
    """A union of config classes, perhaps with some strings: each class has a field `kind` that names it."""
    configs = [member for member in get_args(kind) if is_dataclass(member)]
    return get_origin(kind) in (Union, UnionType) and len(configs) > 1


def _choice(value: Any, members: tuple[Any, ...], converter: Any) -> Any:
    classes = {{f.name: f.default for f in fields(m)}["kind"]: m for m in members if is_dataclass(m)}
    words = [word for m in members if get_origin(m) is Literal for word in get_args(m)]
    if isinstance(value, dict):
        return converter.structure(value, classes[_one_of(value.get("kind"), Literal[tuple(classes)])])
    if not words:
        raise ValueError(f"expected the fields of a config, got {json.dumps(value)}")
    return _one_of(value, Literal[tuple(words)])


def _tuple(value: Any, kinds: tuple[Any, ...], converter: Any) -> tuple[Any, ...]:
    from cattrs import IterableValidationError, IterableValidationNote

    _of_type(list, value, "a list")
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"expected a list of {len(kinds)}, got {json.dumps(value)}")
    items, errors = [], []
    for index, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        try:
            items.append(converter.structure(item, kind))
        except Exception as error:
            error.__notes__ = [IterableValidationNote(f"item {index}", index, kind)]
            errors.append(error)
    if errors:
        raise IterableValidationError("some items are wrong", errors, tuple)
    return tuple(items)


def _problems(error: Exception, path: str) -> list[str]:
    """A line for each thing that cattrs found wrong, with the dotted path that leads to it."""
    from cattrs import AttributeValidationNote, ForbiddenExtraKeysError, IterableValidationNote

    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            path = _join(path, note.name if isinstance(note, AttributeValidationNote) else note.index)
    match error:
        case ExceptionGroup():
            return [line for inner in error.exceptions for line in _problems(inner, path)]
        case ForbiddenExtraKeysError():
            names = [f.name for f in fields(error.cl)]
            return [f"unknown field {_join(path, key)}{did_you_mean(key, names)}" for key in sorted(error.extra_fields)]
        case KeyError():
            return [f"missing field {path}"]
        case ValueError():
            return [f"{path}: {error}" if path else str(error)]
        case _:
            raise error


# Comparison


def differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted path, value in `a`, value in `b`) of each place where two configs differ."""
    if type(a) is type(b) and is_dataclass(a):
        pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(a)]
    elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        pairs = list(zip(range(len(a)), a, b, strict=True))
    else:
        return [] if a == b else [(path, a, b)]
    return [difference for name, x, y in pairs for difference in differences(x, y, _join(path, name))]


def _join(path: str, name: str | int) -> str:
    return f"{path}.{name}" if path else str(name)
