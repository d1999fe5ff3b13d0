"""Loading, overriding, saving and comparing configs, on one made for the purpose; and the rules that real ones obey."""

import ast
import inspect
import json
import math
import re
import textwrap
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Literal, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm import config as configs
from jaxllm.config import apply_overrides, differences, from_json, load_experiment, to_json


@dataclass(frozen=True)
class Block:
    """One layer."""

    mixer: Literal["attention", "recurrent"] = "attention"
    """What it mixes with."""
    width: int = 8
    """How wide it is."""


@dataclass(frozen=True)
class Model:
    """What is trained."""

    num_layers: int = 4
    """Blocks in all."""
    tie_embeddings: bool = True
    """One table or two."""
    dropout: float | None = None
    """Chance to drop a unit."""
    prologue: tuple[Block, ...] = ()
    """Blocks that come first."""
    pattern: tuple[Block, ...] = (Block(),)
    """Blocks that are repeated."""

    def __post_init__(self):
        if self.num_layers < 1:
            raise ValueError(f"model.num_layers must be at least 1, got {self.num_layers}")


@dataclass(frozen=True)
class Optimizer:
    """How it is trained."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Update rule."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the two moments."""
    milestones: tuple[int, ...] = (10, 20)
    """Steps at which the rate drops."""


@dataclass(frozen=True)
class Run:
    """One run."""

    name: str = "run"
    """Names the directory."""
    path: str = ""
    """Text."""
    model: Model = Model()
    """What is trained."""
    optimizer: Optimizer = Optimizer()
    """How."""
    steps: int = 100
    """Steps in all."""
    warmup: int = 10
    """Steps of rising learning rate."""
    version: int = 3
    """Version of these fields."""

    def __post_init__(self):
        if self.warmup > self.steps:
            raise ValueError(f"warmup={self.warmup} must not exceed steps={self.steps}")


def refused(capsys, *arguments, config=Run()):
    """The one message that a command line is refused with."""
    with pytest.raises(SystemExit) as exit_:
        apply_overrides(config, arguments, prog="jaxllm train run")
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    return unboxed(err)


def unboxed(text):
    """The words alone: how they are framed and wrapped depends on the terminal."""
    return " ".join(re.sub("[─│╭╮╰╯|+-]{2,}(?![a-z])|[│|]", " ", text).split())


# Overrides


def test_no_arguments_change_nothing():
    config = Run(model=Model(num_layers=7, dropout=0.5, prologue=(Block(width=3),)))
    assert apply_overrides(config, []) == config


def test_overrides_reach_every_kind_of_field():
    changed = apply_overrides(
        Run(model=Model(num_layers=7)),
        [
            "--path",
            "a folder/with=signs.txt",
            "--model.tie_embeddings=false",
            "--model.dropout=0.25",
            "--optimizer.kind=muon",
            "--optimizer.learning_rate=3e-4",
            "--optimizer.betas=0.8,0.99",
            "--optimizer.milestones",
            "5",
            "6",
            "7",
            "--model.pattern.0.mixer=recurrent",
        ],
    )
    model = Model(num_layers=7, tie_embeddings=False, dropout=0.25, pattern=(Block(mixer="recurrent"),))
    optimizer = Optimizer(kind="muon", learning_rate=3e-4, betas=(0.8, 0.99), milestones=(5, 6, 7))
    assert changed == Run(path="a folder/with=signs.txt", model=model, optimizer=optimizer)


def test_none_can_be_set_and_replaced():
    assert apply_overrides(Run(model=Model(dropout=0.1)), ["--model.dropout=None"]).model.dropout is None
    assert apply_overrides(Run(), ["--model.dropout=1e-2"]).model.dropout == 0.01


def test_the_empty_tuple_can_be_set():
    assert apply_overrides(Run(), ["--optimizer.milestones="]).optimizer.milestones == ()


@pytest.mark.parametrize("text, value", [("true", True), ("True", True), ("false", False), ("FALSE", False)])
def test_booleans(text, value):
    assert apply_overrides(Run(), [f"--model.tie_embeddings={text}"]).model.tie_embeddings is value


def test_overrides_are_checked_together():
    # Either alone is impossible: warmup would exceed the 100 steps, steps would fall below the 10 of warmup.
    assert apply_overrides(Run(), ["--warmup=500", "--steps=1000"]).warmup == 500
    assert apply_overrides(Run(), ["--steps=5", "--warmup=1"]).steps == 5


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--model.num_layer=6", ["--model.num_layer=6", "Perhaps you meant", "--model.num_layers INT"]),
        ("--modle.num_layers=6", ["--modle.num_layers=6", "--model.num_layers INT"]),
        ("--model.num_layers=six", ["--model.num_layers", "'six'", "int"]),
        ("--model.num_layers=6.5", ["--model.num_layers", "'6.5'"]),
        ("--model.tie_embeddings=maybe", ["--model.tie_embeddings", "expected true or false, got 'maybe'"]),
        ("--optimizer.kind=adam", ["'adam'", "--optimizer.kind", "'adamw', 'muon'"]),
        ("--optimizer.betas=0.9", ["--optimizer.betas", "expected 2 values, got 1"]),
        ("--optimizer.betas=0.9,high", ["--optimizer.betas", "expected float, got 'high'"]),
        ("--model.num_layers=0", ["model.num_layers must be at least 1, got 0"]),
        ("--warmup=101", ["warmup=101 must not exceed steps=100"]),
        ("--version=4", ["--version", "can't be chosen"]),
        ("6", ["6"]),
    ],
)
def test_what_cannot_be_applied_is_named(capsys, argument, words):
    message = refused(capsys, argument)
    for word in words:
        assert word in message


def test_help_prints_the_tree_with_current_values(capsys):
    with pytest.raises(SystemExit) as exit_:
        apply_overrides(Run(model=Model(num_layers=7)), ["--help"], prog="jaxllm train run")
    assert exit_.value.code == 0
    text = unboxed(capsys.readouterr().out)
    assert "usage: jaxllm train run" in text
    assert "--model.num_layers INT Blocks in all. (default: 7)" in text
    assert "--model.tie_embeddings {true,false} One table or two. (default: true)" in text
    assert "--optimizer.betas FLOAT,FLOAT Decay of the two moments. (default: 0.9,0.95)" in text


# JSON

runs = st.builds(
    Run,
    name=st.text(),
    path=st.text(),
    model=st.builds(
        Model,
        num_layers=st.integers(1),
        tie_embeddings=st.booleans(),
        dropout=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        prologue=st.lists(st.builds(Block, mixer=st.sampled_from(["attention", "recurrent"]))).map(tuple),
        pattern=st.lists(st.builds(Block, width=st.integers())).map(tuple),
    ),
    optimizer=st.builds(
        Optimizer,
        learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        milestones=st.lists(st.integers()).map(tuple),
    ),
)


@given(runs)
def test_json_gives_back_the_same_config(run):
    assert from_json(to_json(run), Run) == run


def test_json_is_strict_json_and_exact():
    run = Run(optimizer=Optimizer(learning_rate=1e-3, betas=(0.1 + 0.2, 1.0)))
    text = to_json(run)
    assert json.loads(text)["optimizer"]["betas"] == [0.30000000000000004, 1.0]
    assert '"learning_rate": 0.001,' in text
    for number in (math.inf, math.nan):
        with pytest.raises(ValueError, match="not JSON compliant"):
            to_json(Run(optimizer=Optimizer(learning_rate=number)))


def test_absent_fields_take_their_default_and_whole_numbers_serve_as_floats():
    assert from_json('{"version": 3, "optimizer": {"learning_rate": 1}}', Run) == Run(
        optimizer=Optimizer(learning_rate=1.0)
    )
    assert isinstance(
        from_json('{"version": 3, "optimizer": {"learning_rate": 1}}', Run).optimizer.learning_rate, float
    )


@dataclass(frozen=True)
class Named:
    name: str


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": "100"}, 'runs/a: steps: expected int, got "100"'),
        ({"steps": 7.0}, "runs/a: steps: expected int, got 7.0"),
        ({"steps": True}, "runs/a: steps: expected int, got true"),
        ({"name": 7}, "runs/a: name: expected str, got 7"),
        ({"model": {"tie_embeddings": 1}}, "runs/a: model.tie_embeddings: expected bool, got 1"),
        ({"model": {"dropout": "no"}}, 'runs/a: model.dropout: expected float, got "no"'),
        ({"model": {"num_layer": 6}}, "runs/a: unknown field model.num_layer; did you mean num_layers?"),
        ({"model": {"num_layers": 0}}, "runs/a: model: model.num_layers must be at least 1, got 0"),
        ({"model": 3}, "runs/a: model: expected the fields of Model, got 3"),
        ({"model": {"pattern": [{}, {"width": "8"}]}}, 'runs/a: model.pattern.1.width: expected int, got "8"'),
        ({"model": {"pattern": [{"widht": 8}]}}, "runs/a: unknown field model.pattern.0.widht; did you mean width?"),
        ({"model": {"pattern": {}}}, "runs/a: model.pattern: expected a list, got {}"),
        (
            {"optimizer": {"kind": "adam"}},
            'runs/a: optimizer.kind: expected one of "adamw", "muon", got "adam"; did you mean adamw?',
        ),
        ({"optimizer": {"betas": [0.9]}}, "runs/a: optimizer.betas: expected a list of 2, got [0.9]"),
        ({"optimizer": {"betas": "no"}}, 'runs/a: optimizer.betas: expected a list, got "no"'),
        ({"warmup": 101}, "runs/a: warmup=101 must not exceed steps=100"),
        (
            {"steps": "x", "model": {"num_layers": "y", "oops": 1}},
            'runs/a:\n  model.num_layers: expected int, got "y"\n  unknown field model.oops\n  steps: '
            'expected int, got "x"',
        ),
    ],
)
def test_json_that_does_not_fit_is_refused_with_its_path(change, message):
    with pytest.raises(ValueError) as error:
        from_json(json.dumps({"version": 3, **change}), Run, source="runs/a")
    assert str(error.value) == message


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match=r"^config: missing field name$"):
        from_json("{}", Named)


def test_text_that_is_no_config_is_refused():
    with pytest.raises(ValueError, match=r"^config is not JSON \(line 2: "):
        from_json('{"steps": 3,\n', Run)
    with pytest.raises(ValueError, match="holds a list, not a config"):
        from_json("[]", Run)
    with pytest.raises(ValueError, match="no version number: it is not a config that jaxllm wrote"):
        from_json('{"architectures": ["GPT2LMHeadModel"]}', Run)


def test_a_newer_config_is_refused():
    with pytest.raises(ValueError) as error:
        from_json('{"version": 7, "steps_of_the_future": 3}', Run)
    assert (
        str(error.value)
        == "config was written by a newer jaxllm: config version 7, this one reads up to 3; upgrade jaxllm"
    )


def test_an_older_config_goes_through_each_migration_in_turn():
    migrations = {
        1: lambda old: {**old, "name": old["name"] + " two"},
        2: lambda old: {"name": old["name"] + " three", "steps": old["iterations"]},
    }
    old = '{"version": 1, "name": "one", "iterations": 77}'
    assert from_json(old, Run, migrations=migrations) == Run(name="one two three", steps=77)
    assert from_json('{"version": 2, "name": "two", "iterations": 77}', Run, migrations=migrations).name == "two three"
    with pytest.raises(ValueError, match=r"config version 1, which this jaxllm \(version 3\) no longer reads"):
        from_json(old, Run, migrations={2: migrations[2]})


# Comparison


def test_differences_name_each_place():
    a = Run(steps=100, model=Model(pattern=(Block(), Block(width=8))))
    b = Run(steps=200, model=Model(pattern=(Block(), Block(width=9)), dropout=0.1))
    assert differences(a, b) == [
        ("model.dropout", None, 0.1),
        ("model.pattern.1.width", 8, 9),
        ("steps", 100, 200),
    ]
    assert differences(a, a) == []
    longer = replace(a, model=replace(a.model, pattern=(Block(),)))
    assert differences(a, longer) == [("model.pattern", (Block(), Block(width=8)), (Block(),))]


# Experiment files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with experiments; the repository's own are out of sight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configs, "_experiment_folders", lambda folder: [tmp_path / "experiments", tmp_path / "beside"])
    (tmp_path / "experiments" / "small").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    return tmp_path


HEADER = f"import sys; Run = sys.modules[{__name__!r}].Run\n"


def test_an_experiment_is_found_by_name_and_by_path(folder):
    (folder / "experiments" / "shakespeare_char.py").write_text(HEADER + "def experiment(): return Run(name='here')")
    (folder / "beside" / "shakespeare_char.py").write_text(HEADER + "def experiment(): return Run(name='beside')")
    (folder / "experiments" / "small" / "tiny.py").write_text(HEADER + "def experiment(): return Run(name='tiny')")
    (folder / "beside" / "measure.py").write_text("print('no experiment in here')")
    assert load_experiment("shakespeare_char", Run).name == "here"
    assert load_experiment("small/tiny", Run).name == "tiny"
    assert load_experiment(folder / "beside" / "shakespeare_char.py", Run).name == "beside"
    assert list(configs.experiments()) == ["shakespeare_char", "small/tiny"]
    with pytest.raises(ValueError) as error:
        load_experiment("shakespeare-chars", Run)
    assert str(error.value) == (
        "unknown experiment 'shakespeare-chars'; did you mean shakespeare_char?\nknown: shakespeare_char, small/tiny"
    )


def test_the_real_folders_are_the_working_directory_and_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here, beside = (path.resolve() for path in configs._experiment_folders("experiments"))
    assert here == tmp_path / "experiments"
    assert (beside.parent / "jaxllm" / "config.py").is_file()


def test_a_config_class_may_be_defined_in_the_experiment_file(folder):
    # Dataclasses look their module up by name to resolve annotations that are strings.
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n" + HEADER + "@dataclass(frozen=True)\n"
        "class Mine(Run):\n    extra: int = 3\n    'More.'\ndef experiment(): return Mine()\n"
    )
    (folder / "mine.py").write_text(source)
    assert apply_overrides(load_experiment("mine.py", Run), ["--extra=4"]).extra == 4


@pytest.mark.parametrize(
    "source, message, cause",
    [
        ("x = 1", "bad.py defines no function experiment(); it must return the run's Run", type(None)),
        ("def experiment(): return {'steps': 3}", "a value of type dict; it must return a Run", type(None)),
        (
            "\n\nimport no_such_module",
            "bad.py can't be loaded (line 3): ModuleNotFoundError: No module named",
            ImportError,
        ),
        ("def experiment(:", "bad.py can't be loaded (line 1): SyntaxError", SyntaxError),
        (
            "def experiment():\n    return 1 / 0",
            "bad.py: experiment() failed (line 2): ZeroDivisionError",
            ZeroDivisionError,
        ),
        (
            HEADER + "def experiment():\n    return Run(warmup=101)",
            "bad.py: experiment() failed (line 3): warmup=101 must not exceed steps=100",
            ValueError,
        ),
    ],
)
def test_a_faulty_experiment_file_is_named_and_its_error_chained(folder, source, message, cause):
    (folder / "bad.py").write_text(source)
    with pytest.raises(ValueError) as error:
        load_experiment("bad.py", Run)
    assert message in str(error.value)
    assert isinstance(error.value.__cause__, cause)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ValueError, match="there is no experiment file nowhere.py"):
        load_experiment("nowhere.py", Run)


# What every config class obeys


def config_classes(cls: type) -> set[type]:
    """`cls` and every config class that its fields can hold."""
    found, waiting = set(), [cls]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if is_dataclass(kind) and kind not in found:
            found.add(kind)
            waiting += get_type_hints(kind).values()
    return found


def broken_rules(cls: type) -> list[str]:
    """At most 25 fields; frozen; under each field a string that says what it is."""
    broken = []
    if len(fields(cls)) > 25:
        broken.append(f"{cls.__name__} has {len(fields(cls))} fields, more than 25: split it by concern")
    if not cls.__dataclass_params__.frozen:
        broken.append(f"{cls.__name__} is not frozen")
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        documented = isinstance(following, ast.Expr) and isinstance(getattr(following.value, "value", None), str)
        if isinstance(statement, ast.AnnAssign) and not documented:
            broken.append(f"{cls.__name__}.{statement.target.id} has no docstring under it")
    return broken


@dataclass
class Bare:
    a: int = 1
    b: int = 2
    """This one has."""
    c: int = 3


Crowded = dataclass(frozen=True)(type("Crowded", (), {"__annotations__": {f"f{i}": int for i in range(26)}}))


def test_the_walk_reaches_classes_inside_tuples_and_unions():
    assert config_classes(Run) == {Run, Model, Block, Optimizer}


def test_the_rules_can_fail(monkeypatch):
    assert broken_rules(Run) == []
    assert broken_rules(Bare) == [
        "Bare is not frozen",
        "Bare.a has no docstring under it",
        "Bare.c has no docstring under it",
    ]
    monkeypatch.setattr(inspect, "getsource", lambda cls: "class Crowded: pass")
    assert broken_rules(Crowded) == ["Crowded has 26 fields, more than 25: split it by concern"]


def test_every_class_of_an_experiment_obeys():
    from jaxllm.training.experiment import Experiment

    classes = config_classes(Experiment)
    assert len(classes) > 8
    assert [line for cls in classes for line in broken_rules(cls)] == []


def test_a_real_experiment_survives_json_and_overrides():
    from jaxllm.training.experiment import Experiment

    experiment = Experiment()
    assert from_json(to_json(experiment), type(experiment)) == experiment
    changed = apply_overrides(experiment, ["--model.num_layers=3", "--name=x"])
    assert differences(experiment, changed) == [("name", experiment.name, "x"), ("model.num_layers", 12, 3)]
