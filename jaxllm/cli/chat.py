"""Talk with a model, or write with it in turns, in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from jaxllm.cli.writing import SAMPLING, Page, add_options, sampling_config
from jaxllm.config import did_you_mean

HELP = """\
What you type is continued, not answered: this is a base model. An empty line lets it go on.
  /temperature X    also /top_k, /top_p, /min_p, /repetition_penalty, /max_new_tokens and /seed; without X it is shown
  /new              forget everything so far
  /help             this page
  /quit             leave, as Ctrl-D does; Ctrl-C stops the text that is being written
  //                begins a line of text that starts with a slash"""


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxllm chat",
        description="Talk with a model that has a chat template; any other continues what you type. "
        "From a pipe, each line is a turn and only the model's text goes to standard output.",
    )
    add_options(parser, length_note="128, of a chat model 512", temperature=0.8, top_p=0.95)
    parser.add_argument("--system", metavar="TEXT", default="", help="instructions to a chat model [the template's]")
    parser.add_argument(
        "--continue", action="store_true", dest="continues", help="have even a chat model continue what you type"
    )
    parser.set_defaults(max_new_tokens=None)
    options = parser.parse_args(arguments)
    sampling = sampling_config(options)

    from rich.console import Console

    from jaxllm.inference import load

    session = begin(load(options.model, dtype=options.dtype), sampling, options)
    # Standard output is for the model's text alone, so that it can go to a file or another program.
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    show_header(notes, session)
    for line in lines():
        if line == "/quit":
            break
        try:
            respond(session, line, notes)
        except KeyboardInterrupt:
            notes.print("(stopped)", style="dim")
        except ValueError as error:  # a text or a setting that can't be: the session goes on without it
            notes.print(f"error: {error}", style="red")
    return 0


def begin(lm: Any, sampling: Any, options: argparse.Namespace) -> Session:
    """A conversation with a chat model, else a text that grows. Raises ValueError for instructions to a base model."""
    from jaxllm.cli.conversation import Conversation, has_template

    chatting, length = has_template(lm) and not options.continues, options.max_new_tokens
    if length is None:
        length = 512 if chatting else 128
    settings = {"seed": options.seed, "max_new_tokens": length, "stop": tuple(options.stop)}
    if chatting:
        return Conversation(lm, sampling, system=options.system, **settings)
    if options.system:
        raise ValueError("--system is for a chat model that answers; this one continues a text")
    return Session(lm, sampling, **settings)


@dataclass
class Session:
    """A text that grows by turns, and the settings it is written with."""

    lm: Any
    sampling: Any
    seed: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    context: list[int] = field(default_factory=list)

    help = HELP
    kind = "a base model"
    advice = "it continues your text, it does not answer it; /help lists the commands"

    def prompt(self, text: str) -> tuple[list[int], int]:
        """The context with `text` on a line of its own, and how many of the oldest tokens had to go to leave room to
        answer.

        Raises ValueError when the tokenizer cannot write the text.
        """
        tokenizer, length = self.lm.tokenizer, self.lm.config.context_length
        if self.context:
            begins_line = not text or tokenizer.decode(self.context).endswith("\n")
            ids = [*self.context, *tokenizer.encode(text if begins_line else "\n" + text)]
        else:
            ids = self.lm.encode_prompt(text)
        dropped = max(0, len(ids) + min(self.max_new_tokens, length // 2) - length)
        return ids[:1] + ids[1 + dropped :], dropped  # the mark that begins a document stays

    def answer(self, prompt: list[int]) -> Iterator[str]:
        """What the model writes after `prompt`, in pieces; as far as it came it is context for the next turn."""
        from jaxllm.inference import Completions

        completions = Completions(
            self.lm,
            [prompt],
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            seed=self.seed,
            stop=self.stop,
            chunk=1,
        )
        try:
            for _, piece in completions:
                yield piece
        finally:
            self.context = prompt + completions.tokens[0]

    def new_document(self) -> bool:
        """Whether the model has just ended its document. The next one begins empty: in training, none saw another."""
        ended = self.context[-1] in self.lm.ends
        if ended:
            self.context = []
        return ended

    def forget(self) -> None:
        """The next text is the first."""
        self.context = []

    def command(self, line: str) -> str:
        """What to reply to a line that began with a slash. Raises ValueError for a value that can't be."""
        name, _, value = line.partition(" ")
        match name:
            case "help":
                return self.help
            case "new":
                self.forget()
                return "everything so far is forgotten"
        settings = [*SAMPLING, "max_new_tokens", "seed"]
        if name not in settings:
            return f"unknown command /{name}{did_you_mean(name, ['help', 'new', 'quit', *settings])}; /help lists them"
        if value.strip():
            self._set(name, value.strip())
        return f"{name} is {getattr(self.sampling if name in SAMPLING else self, name)}"

    def _set(self, name: str, value: str) -> None:
        kind = SAMPLING[name][0] if name in SAMPLING else int
        try:
            number = kind(value)
        except ValueError as error:
            raise ValueError(
                f"{name} takes {'a whole number' if kind is int else 'a number'}, got {value!r}"
            ) from error
        if name in SAMPLING:
            self.sampling = replace(self.sampling, **{name: number})
        elif name == "max_new_tokens" and number < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {number}")
        elif name == "seed" and not 0 <= number < 2**32:
            raise ValueError(f"seed must be between 0 and {2**32 - 1}, got {number}")
        else:
            setattr(self, name, number)


def respond(session: Session, line: str, notes: Any) -> None:
    """Carry out a command, or show how the model goes on after a text."""
    if line.startswith("/") and not line.startswith("//"):
        notes.print(session.command(line[1:]), style="dim")
        return
    prompt, dropped = session.prompt(line[1:] if line.startswith("//") else line)
    if dropped:
        notes.print(f"(the oldest {dropped} tokens no longer fit the context and are forgotten)", style="dim")
    page = Page()
    try:
        with contextlib.closing(session.answer(prompt)) as pieces:
            for piece in pieces:
                page.write(piece)
    finally:
        page.end()
    if session.new_document():
        notes.print("(the model ended its document here; your next text begins a new one)", style="dim")


def lines() -> Iterator[str]:
    """What the user types, or the lines of a pipe, until the end of input."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.removesuffix("\n")
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a line editor and a history, where the platform has one
    while True:
        try:
            yield input("> " if sys.stdout.isatty() else "")
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /quit leaves)", file=sys.stderr)


def show_header(notes: Any, session: Session) -> None:
    from rich.panel import Panel
    from rich.table import Table

    from jaxllm.models import decoder_spec
    from jaxllm.models.declare import count

    config, origin, sampling = session.lm.config, session.lm.origin, session.sampling
    facts = Table.grid(padding=(0, 2))
    facts.add_row("parameters", f"{count(decoder_spec(config)):,}")
    facts.add_row("context", f"{config.context_length:,} tokens")
    if origin.step is not None:
        facts.add_row("trained for", f"{origin.step:,} steps")
    if origin.val_bpb is not None:
        facts.add_row("validation", f"{origin.val_bpb:.4f} bits per byte")
    facts.add_row("sampling", ", ".join(f"{name} {getattr(sampling, name):g}" for name in SAMPLING))
    facts.add_row(session.kind, session.advice)
    notes.print(Panel(facts, title=origin.name or "model", title_align="left", expand=False))
