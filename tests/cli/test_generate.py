"""jaxllm generate: what goes to which stream, and what is refused."""

import io
import re

import pytest

from jaxllm.cli.generate import run
from jaxllm.cli.main import main
from jaxllm.cli.writing import DEFAULTS, SAMPLING, printable
from jaxllm.inference import SamplingConfig, generate

from .saved_model import ending_model, saved, small_model


@pytest.fixture(scope="module")
def lm():
    return small_model()


@pytest.fixture(scope="module")
def model(lm, tmp_path_factory):
    return saved(lm, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def stdin(monkeypatch):
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_the_text_goes_to_standard_output_and_its_speed_to_standard_error(lm, model, capsys):
    assert run([model, "--prompt", "def f", "--max-new-tokens", "30", "--seed", "5"]) == 0
    captured = capsys.readouterr()
    assert captured.out == generate(lm, "def f", max_new_tokens=30, seed=5).removesuffix("\n") + "\n"
    assert re.fullmatch(
        r"prompt of 6 tokens, \d+\.\d\d s to the first token; "
        r"30 tokens written, [\d,]+\.\d tokens/s; ended by length\n",
        captured.err,
    )


def test_every_option_reaches_the_sampler(lm, model, capsys):
    options = ["--temperature=0.8", "--top-k=40", "--top-p=0.9", "--min-p=0.01", "--repetition-penalty=1.2"]
    run([model, "--prompt", "a", "--max-new-tokens", "20", *options])
    sampling = SamplingConfig(0.8, 40, 0.9, 0.01, 1.2)
    assert capsys.readouterr().out.rstrip("\n") == generate(lm, "a", max_new_tokens=20, sampling=sampling).rstrip("\n")


def test_samples_have_a_seed_each(lm, model, capsys):
    run([model, "--prompt", "a", "--max-new-tokens", "12", "--num-samples", "2", "--seed", "3"])
    texts = [generate(lm, "a", max_new_tokens=12, seed=seed).removesuffix("\n") for seed in (3, 4)]
    captured = capsys.readouterr()
    assert captured.out == "--- sample 1, seed 3\n{}\n--- sample 2, seed 4\n{}\n".format(*texts)
    assert "24 tokens written" in captured.err


def test_stop_strings_end_the_text(lm, model, capsys):
    text = generate(lm, "a", max_new_tokens=30)
    stop, other = text[11:13], text[5]
    run([model, "--prompt", "a", "--max-new-tokens", "30", "--stop", stop, "--stop", other])
    captured = capsys.readouterr()
    assert captured.out == text[: text.index(other)].removesuffix("\n") + "\n"
    assert "ended by stop" in captured.err


def test_an_empty_prompt_begins_a_document(lm, model, capsys):
    assert run([model, "--prompt", "", "--max-new-tokens", "10"]) == 0
    captured = capsys.readouterr()
    assert captured.out.rstrip("\n") == generate(lm, "", max_new_tokens=10).rstrip("\n")
    assert captured.err.startswith("prompt of 1 tokens")


def test_a_model_that_ends_at_once_writes_an_empty_line(tmp_path, capsys):
    assert run([saved(ending_model(), tmp_path / "ending"), "--prompt", "a", "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "\n"
    assert captured.err.endswith("1 tokens written; ended by end_of_text\n")


def test_a_prompt_is_read_from_standard_input_as_it_is(lm, model, capsys, stdin):
    stdin("für x\n".encode())
    assert run([model, "--prompt", "-", "--max-new-tokens", "10"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == generate(lm, "für x\n", max_new_tokens=10).rstrip("\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "standard input is empty"), (b"ab\xff", "standard input is not UTF-8 text: byte 2 is 0xff")],
)
def test_standard_input_that_is_no_prompt_is_refused(model, capsys, stdin, content, message):
    stdin(content)
    assert main(["generate", model, "--prompt", "-"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "x" * 63], "the prompt has 64 tokens; the model reads at most 63"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be 0"),
        (["--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--prompt", "a", "--num-samples", "0"], "--num-samples must be at least 1"),
        (["--prompt", "a", "--seed", "-1"], "a seed must be between 0"),
        (["--prompt", "a", "--stop", ""], "a stop string is empty"),
    ],
)
def test_what_cannot_be_is_an_error_with_status_2(model, capsys, arguments, message):
    assert main(["generate", model, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")


def test_a_path_that_is_no_model_is_an_error_with_status_2(tmp_path, capsys):
    assert main(["generate", str(tmp_path / "nothing"), "--prompt", "a"]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no {tmp_path / 'nothing'}: looked for a run directory")


def test_a_missing_prompt_is_named(model, capsys):
    with pytest.raises(SystemExit, match="2"):
        run([model])
    assert "--prompt" in capsys.readouterr().err


def test_the_options_are_those_of_the_sampler():
    assert SamplingConfig(**DEFAULTS) == SamplingConfig()
    assert list(SAMPLING) == list(SamplingConfig.__dataclass_fields__)


def test_a_terminal_is_not_steered_by_the_text():
    assert printable("a\x1b[2Jb\r\n\tc\x9b1m\x7fé") == "a�[2Jb�\n\tc�1m�é"
