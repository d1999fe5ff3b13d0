"""The command: verbs, help, exit statuses; and the arguments of `jaxllm train`."""

import ast
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import jaxllm
from jaxllm.cli import main as command
from jaxllm.cli import train
from jaxllm.cli.main import main


def execute(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "jaxllm", *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def verb(monkeypatch):
    """Puts a function in place of the verb `plot`."""

    def install(run):
        monkeypatch.setattr("jaxllm.cli.plot.run", run)
        return "plot"

    return install


def raising(error):
    def run(arguments):
        raise error

    return run


# Verbs and help


def test_every_verb_is_there_with_a_line_of_help():
    for verb, module in command.VERBS.items():
        source = Path(importlib.util.find_spec(module).origin).read_text()
        line = ast.get_docstring(ast.parse(source)).splitlines()[0]
        assert 10 < len(line) < 100, verb
        assert callable(importlib.import_module(module).run), verb


def test_help_lists_the_verbs_at_once_and_without_jax():
    code = "import sys; from jaxllm.cli.main import main; main(['--help']); assert 'jax' not in sys.modules, 'jax'"
    fastest = 9.0
    for _ in range(3):  # the machine may be busy with other tests; the quickest of three tells what the command takes
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        fastest = min(fastest, time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")] == list(command.VERBS)
    assert fastest < 0.5


def test_no_verb_prints_the_help_as_an_error(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: jaxllm VERB")


def test_an_unknown_verb_is_told_its_neighbour(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: unknown verb 'trian'; did you mean train?"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"jaxllm {jaxllm.__version__} (jax ")


def test_python_m_jaxllm_is_the_command():
    assert execute("--version").stdout.startswith("jaxllm ")
    assert execute("nothing").returncode == 2


# Errors and exit statuses


def test_the_verb_gets_its_arguments_and_gives_the_status(verb):
    seen = []
    assert main([verb(lambda arguments: seen.append(arguments) or 7), "a", "--b=c"]) == 7
    assert seen == [["a", "--b=c"]]


def test_a_value_error_is_a_message_and_no_traceback(tmp_path, capsys):
    assert main(["plot", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == f"error: there is no run directory {tmp_path / 'nothing'}\n"


def test_an_error_from_below_says_how_to_see_its_place(verb, capsys):
    assert main([verb(lambda arguments: int("x"))]) == 2
    assert "set JAXLLM_TRACEBACK=1 to see where this comes from" in capsys.readouterr().err


def test_the_environment_asks_for_the_traceback(verb, monkeypatch):
    monkeypatch.setenv("JAXLLM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="as asked"):
        main([verb(raising(ValueError("as asked")))])


def test_a_run_that_diverged_is_a_failure_and_not_a_refusal(verb, capsys):
    assert main([verb(raising(FloatingPointError("the loss exploded")))]) == 1
    assert capsys.readouterr().err.startswith("error: the loss exploded")


def test_ctrl_c(verb):
    assert main([verb(raising(KeyboardInterrupt()))]) == 130


def test_a_defect_keeps_its_traceback(verb):
    with pytest.raises(ZeroDivisionError):
        main([verb(raising(ZeroDivisionError()))])


def test_a_closed_pipe_ends_quietly():
    code = (
        "import sys; from jaxllm.cli import main, plot\n"
        "plot.run = lambda arguments: print('a line\\n' * 10_000)\n"
        "sys.exit(main.main(['plot']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# The package


def test_the_surface_is_imported_on_demand():
    code = "import sys, jaxllm; assert 'jax' not in sys.modules; print(jaxllm.forward.__module__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert result.stdout.startswith("jaxllm.models"), result.stderr
    assert {"load", "forward", "generate", "save", "LanguageModel"} <= set(dir(jaxllm))
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = jaxllm.lod


# jaxllm train


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the experiment `small` and the run `runs/old` of it."""
    from jaxllm.config import to_json
    from jaxllm.training.experiment import Experiment

    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/small.py").write_text(
        "from jaxllm.training.experiment import Experiment\ndef experiment(): return Experiment(name='little')"
    )
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/config.json").write_text(to_json(Experiment(name="older")))
    return tmp_path


def test_where_a_run_goes(here):
    def planned(*arguments):
        config, directory, profile = train.plan_run(arguments[0], list(arguments[1:]))
        return config.name, str(directory), profile

    assert planned("small") == ("little", "runs/little", False)
    assert planned("small", "--name=x") == ("x", "runs/x", False)
    assert planned("experiments/small.py", "--run", "there", "--profile") == ("little", "there", True)
    assert planned("runs/old") == ("older", "runs/old", False)
    assert planned("runs/old", "--run=runs/old") == ("older", "runs/old", False)
    assert planned("runs/old/config.json") == ("older", "runs/old-replay", False)
    assert planned("runs/old/config.json", "--run=runs/b") == ("older", "runs/b", False)


def test_replay_from_inside_a_run(here, monkeypatch):
    monkeypatch.chdir("runs/old")
    assert train.plan_run("config.json", [])[1].resolve() == here / "runs" / "old-replay"


def test_overrides_are_applied_around_the_commands_own_options(here):
    config, directory, profile = train.plan_run(
        "small", ["--model.num_layers", "3", "--run", "d", "--training.steps=5"]
    )
    assert (config.model.num_layers, config.training.steps, str(directory)) == (3, 5, "d")
    assert train.plan_run("runs/old", ["--training.steps=2000"])[0].training.steps == 2000


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["smal"], "unknown experiment 'smal'; did you mean small?"),
        (["--run", "x", "small"], "the experiment comes first: jaxllm train EXPERIMENT --run x small"),
        (["small", "--run"], "--run needs the name of a directory"),
        (["runs/old", "--run=b"], "to replay it elsewhere: jaxllm train runs/old/config.json --run b"),
        (["runs/none/config.json"], "there is no file runs/none/config.json"),
        (["runs/empty"], "runs/empty holds no config.json"),
    ],
)
def test_train_refuses(here, capsys, arguments, message):
    Path("runs/empty").mkdir()
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_train_names_the_file_of_a_config_it_cannot_read(here, capsys):
    path = Path("runs/old/config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    assert main(["train", "runs/old"]) == 2
    message = capsys.readouterr().err
    assert "was written by a newer jaxllm: config version 99" in message
    assert "runs/old/config.json" in message


def test_train_hands_over_to_pretraining_and_prints_the_outcome(here, monkeypatch, capsys):
    calls = []
    outcome = types.SimpleNamespace(step=5, steps=9, val_loss=1.5, val_bpb=0.75)

    def pretrain(config, directory, reporter, *, profile, began):
        reporter.say("said by the run")
        calls.append((config.name, str(directory), profile))
        return types.SimpleNamespace(outcome=outcome)

    stand_in = types.ModuleType("jaxllm.pipeline.pretrain")
    stand_in.pretrain = pretrain
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    assert main(["train", "small", "--profile"]) == 0
    assert calls == [("little", "runs/little", True)]
    out, err = capsys.readouterr()
    assert out == "runs/little: step 5 of 9, validation loss 1.5000 nats per token, 0.7500 bits per byte\n"
    assert "said by the run" in err
    outcome.val_loss = None
    assert main(["train", "small"]) == 0
    assert capsys.readouterr().out == "runs/little: step 5 of 9\n"


def test_train_help(here, capsys):
    assert main(["train", "--help"]) == 0
    assert "experiments: small" in capsys.readouterr().out
    assert main(["train"]) == 2
    with pytest.raises(SystemExit) as exit_:
        main(["train", "small", "--help"])
    assert exit_.value.code == 0
    assert "--model.num_layers INT" in capsys.readouterr().out
