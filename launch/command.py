"""The command line of launch/run: finds the place and the verb, renders the script, prints or executes it."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from launch.places import PLACES
from launch.request import Request
from launch.script import one_line
from launch.training import check_name, parse_training

HELP = """\
usage: launch/run PLACE [VERB] [options] -- EXPERIMENT [--run DIR] [--a.b=c ...]

After -- stands what `jaxllm train` takes, the same in every place. PLACE is one of
{places}
VERB is start unless said; launch/run PLACE --help lists the others and the options.

  --dry-run   print the bash script that would be executed, and do nothing
  --job NAME  the job's name; that of the run by default
  --logs DIR  output of every host, in DIR/JOB/HOST.log; logs by default
  --env A=B   a variable for the training, on every host; may be repeated"""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
REFUSED = 2


def main(arguments: list[str]) -> int:
    """Execute one command line, or print what would be. Only returns where nothing is executed."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, PLACES))
        places = "\n".join(f"  {name:<{width}}  {_first_line(place)}" for name, place in PLACES.items())
        print(HELP.format(places=places), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else REFUSED
    try:
        request, verb, render, dry_run = parse(arguments)
        text = render(request)
        if dry_run:
            print(text, end="")
            return 0
        return _execute(text, request.folder, verb)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def parse(arguments: list[str]) -> tuple[Request, str, Callable[[Request], str], bool]:
    """(request, verb, what renders its script, whether it is only to be shown).

    Raises ValueError for a place or verb that is not there, a missing experiment, a name or variable that can't be.
    """
    name, *rest = arguments
    place = PLACES.get(name)
    if place is None:
        raise ValueError(f"unknown place {name!r}{_near(name, PLACES)}\nknown: {', '.join(PLACES)}")
    before, after = _divide(rest)
    verb = before.pop(0) if before and not before[0].startswith("-") else "start"
    if verb not in place.VERBS:
        raise ValueError(
            f"{name} has no verb {verb!r}{_near(verb, place.VERBS)}\nknown: {', '.join(place.VERBS)}; "
            f"an experiment stands after --: launch/run {name} -- {verb}"
        )
    options, strays = _parser(name, place).parse_known_args(before)
    if strays:
        raise ValueError(
            f"launch/run {name} does not know {' '.join(strays)}; what is for `jaxllm train` stands after --, "
            f"and launch/run {name} --help lists the rest"
        )
    training = parse_training(after) if verb in place.TRAINING_VERBS or after else None
    if options.job is None and training is None:
        raise ValueError(f"{verb} which job? launch/run {name} {verb} --job NAME")
    request = Request(
        title=f"launch/run {one_line(_without_dry_run(arguments))}",
        job=training.name() if options.job is None else check_name(options.job),
        logs=Path(options.logs).absolute(),
        directory=Path.cwd(),
        environment=dict(map(_variable, options.env)),
        options=options,
        training=training,
    )
    return request, verb, place.VERBS[verb], options.dry_run


def _parser(name: str, place: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"launch/run {name}",
        usage=f"launch/run {name} [{'|'.join(place.VERBS)}] [options] -- EXPERIMENT [--run DIR] [--a.b=c ...]",
        description=place.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="print the script, and do nothing")
    parser.add_argument("--job", metavar="NAME", help="the job's name; that of the run by default")
    parser.add_argument("--logs", metavar="DIR", default="logs", help="of DIR/JOB/HOST.log; logs by default")
    parser.add_argument("--env", metavar="A=B", action="append", default=[], help="a variable for the training")
    place.add_options(parser)
    return parser


def _divide(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first --."""
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _without_dry_run(words: list[str]) -> list[str]:
    """So that a script is the same whether it is shown or executed."""
    before, _ = _divide(words)
    return [word for word in before if word != "--dry-run"] + words[len(before) :]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not VARIABLE.fullmatch(name):
        raise ValueError(f"--env {text!r}: a variable is written NAME=VALUE")
    return name, value


def _execute(text: str, folder: Path, verb: str) -> int:
    """Become bash, executing the script, so that signals and the exit status are its own."""
    path = folder / f"{verb}.sh"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): choose another --logs DIR") from error
    sys.stdout.flush()
    try:
        os.execvp("bash", ["bash", str(path)])
    except FileNotFoundError as error:
        raise ValueError("bash is not on the path; every launch is a bash script") from error


def _first_line(place: ModuleType) -> str:
    return place.__doc__.splitlines()[0]


def _near(word: str, known) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {matches[0]!r}?" if matches else ""
