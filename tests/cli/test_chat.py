"""jaxllm chat, driven as a person or a script would: lines in, text out, notes on standard error."""

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from jaxllm.cli import chat
from jaxllm.cli.main import main
from jaxllm.inference import SamplingConfig, complete

from .saved_model import ending_model, saved, small_model

CHAT = SamplingConfig(temperature=0.8, top_p=0.95)


@pytest.fixture(scope="module")
def lm():
    return small_model()


@pytest.fixture(scope="module")
def model(lm, tmp_path_factory):
    return saved(lm, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """Sends lines through a pipe; returns (status, standard output, standard error)."""

    def run(lines, *options, model=model):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        status = main(["chat", model, "--max-new-tokens", "8", *options])
        return status, *capsys.readouterr()

    return run


def turns(lm, texts, max_new_tokens=8, **settings):
    """What the model should write: each text stands on a new line after all that came before."""
    context, answers = [lm.tokenizer.end_of_text], []
    for text in texts:
        begins_line = len(context) == 1 or not text or lm.tokenizer.decode(context).endswith("\n")
        context += lm.tokenizer.encode(text if begins_line else "\n" + text)
        [generation] = complete(lm, [context], max_new_tokens=max_new_tokens, **{"sampling": CHAT, **settings})
        context += generation.tokens
        answers.append(generation.text)
    return answers


def lines_of(answers):
    return "".join(answer.removesuffix("\n") + "\n" for answer in answers)


@pytest.mark.long
def test_answers_come_in_order_and_know_what_was_said_before(lm, talk):
    status, out, err = talk(["Hello", "and", "", "on"])
    assert status == 0
    assert out == lines_of(turns(lm, ["Hello", "and", "", "on"]))
    assert turns(lm, ["and"])[0] not in out


def test_the_header_says_what_the_model_is(talk):
    _, out, err = talk([])
    assert out == ""
    for fact in ("small", "25,760", "64 tokens", "7 steps", "1.2500 bits per byte", "base model", "temperature 0.8"):
        assert fact in err


def test_new_clears_the_context(lm, talk):
    _, out, err = talk(["Hello", "/new", "Hello"])
    assert out == lines_of(turns(lm, ["Hello"]) * 2)
    assert "everything so far is forgotten" in err


def test_settings_change_what_is_written_and_are_shown(lm, talk):
    _, out, err = talk(
        ["/temperature 0", "/seed 9", "/top_p", "Hello", "/new", "/temperature 1", "/top_p 0.5", "Hello"]
    )
    expected = turns(lm, ["Hello"], seed=9, sampling=SamplingConfig(0, top_p=0.95))
    expected += turns(lm, ["Hello"], seed=9, sampling=SamplingConfig(1, top_p=0.5))
    assert out == lines_of(expected)
    for note in ("temperature is 0", "seed is 9", "top_p is 0.95", "top_p is 0.5"):
        assert note in err


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("/temperature cold", "error: temperature takes a number, got 'cold'"),
        ("/temperature -1", "error: temperature must be 0"),
        ("/top_k 1.5", "error: top_k takes a whole number, got '1.5'"),
        ("/seed -1", "error: seed must be between 0"),
        ("/max_new_tokens 0", "error: max_new_tokens must be at least 1"),
        ("/temprature 1", "unknown command /temprature; did you mean temperature?; /help lists them"),
        ("/help", "/temperature X"),
    ],
)
def test_a_wrong_command_is_explained_and_the_session_goes_on(lm, talk, line, reply):
    status, out, err = talk([line, "Hello"])
    assert (status, out) == (0, lines_of(turns(lm, ["Hello"])))
    assert reply in err


def test_a_text_may_begin_with_a_slash_and_quit_leaves(lm, talk):
    assert talk(["//usr", "/quit", "Hello"])[:2] == (0, lines_of(turns(lm, ["/usr"])))


def test_a_context_that_no_longer_fits_loses_its_oldest_part_and_says_so(lm, talk):
    """Of 64 tokens, the mark, 40, an answer of 8, a line end, 20 and room for another answer of 8 are 14 too many."""
    first, second = "a" * 40, "b" * 20
    _, out, err = talk([first, second])
    [generation] = complete(lm, [first], max_new_tokens=8, sampling=CHAT)
    answer = lm.tokenizer.encode(first) + generation.tokens
    line = [] if generation.text.endswith("\n") else [10]
    whole = answer + line + lm.tokenizer.encode(second)
    dropped = 1 + len(whole) + 8 - 64
    [after] = complete(lm, [[256, *whole[dropped:]]], max_new_tokens=8, sampling=CHAT)
    assert out == lines_of([generation.text, after.text])
    assert f"(the oldest {dropped} tokens no longer fit the context and are forgotten)" in err


def test_a_line_longer_than_the_context_keeps_its_end(lm, talk):
    status, out, err = talk(["a" * 100 + "b" * 55])
    [generation] = complete(lm, [[256] + [98] * 55], max_new_tokens=8, sampling=CHAT)
    assert (status, out) == (0, lines_of([generation.text]))
    assert "(the oldest 100 tokens no longer fit" in err


def test_a_document_that_ends_is_left_behind(talk, tmp_path):
    status, out, err = talk(["a", "b"], "--temperature", "0", model=saved(ending_model(), tmp_path / "ending"))
    assert (status, out) == (0, "\n\n")
    assert err.count("the model ended its document here") == 2


def test_a_text_the_tokenizer_cannot_write_ends_the_turn_only(lm, talk, monkeypatch):
    encode = type(lm.tokenizer).encode

    def refuse(self, text, **options):
        if "ü" in text:
            raise ValueError("the character 'ü' is not in this tokenizer's vocabulary")
        return encode(self, text, **options)

    monkeypatch.setattr(type(lm.tokenizer), "encode", refuse)
    status, out, err = talk(["ü", "Hello"])
    assert (status, out) == (0, lines_of(turns(lm, ["Hello"])))
    assert "error: the character 'ü' is not in" in err


def test_an_interrupted_answer_stays_in_the_context(lm):
    session = chat.Session(lm, CHAT, seed=0, max_new_tokens=20)
    prompt, _ = session.prompt("Hello")
    with contextlib.closing(session.answer(prompt)) as pieces:
        for _, _ in zip(range(3), pieces, strict=False):
            pass
    [whole] = complete(lm, [prompt], max_new_tokens=20, sampling=CHAT)
    written = session.context[len(prompt) :]
    assert 3 <= len(written) < 20
    assert session.context == prompt + whole.tokens[: len(written)]


# The terminal becomes the process's own, so that Ctrl-C reaches it, even where the tests themselves ignore interrupts.
IN_TERMINAL = """
import fcntl, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from jaxllm.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A `jaxllm` process in a real terminal."""

    def __init__(self, *arguments):
        self.controller, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        os.close(self.controller)

    def type(self, keys):
        os.write(self.controller, keys)

    def shows(self, text, seconds=60):
        """Whether `text` comes up in time; the next call looks at what comes after."""
        deadline = time.monotonic() + seconds
        while text not in self.unread:
            ready, _, _ = select.select([self.controller], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return False
            self.unread += os.read(self.controller, 4096)
        self.unread = self.unread.partition(text)[2]
        return True


def test_in_a_terminal_ctrl_c_at_the_prompt_does_not_leave_and_ctrl_d_does(model):
    with Terminal("chat", model) as terminal:
        assert terminal.shows(b"> ")
        terminal.type(b"/temperature\n")
        assert terminal.shows(b"temperature is 0.8")
        assert terminal.shows(b"> ")
        # One that comes between the prompt and the wait for a key is only noticed with the next.
        assert any(terminal.type(b"\x03") or terminal.shows(b"(Ctrl-D or /quit leaves)", seconds=3) for _ in range(5))
        assert terminal.shows(b"> ")
        terminal.type(b"\x04")
        assert terminal.process.wait(30) == 0


def test_ctrl_c_stops_the_text_that_is_being_written(lm, talk, monkeypatch):
    write, written = chat.Page.write, []

    def interrupted(page, text):
        written.append(text)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(page, text)

    monkeypatch.setattr(chat.Page, "write", interrupted)
    status, out, err = talk(["Hello", "/quit"])
    assert status == 0
    assert out.rstrip("\n") == "".join(written[:2]).rstrip("\n")
    assert "(stopped)" in err
