"""Pieces of bash: words quoted so that nothing in them is ever executed, files written in place, tools looked for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

LINE = 110
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Those, and what means something between $' and '.
ESCAPED = re.compile(r"[\x00-\x1f\x7f'\\]")


def quote(word: str) -> str:
    """`word` as one word of a bash command, on one line whatever it holds.

    Raises ValueError for what no command line can carry: NUL, and bytes that are no UTF-8.
    """
    if "\0" in word or not _is_text(word):
        raise ValueError(f"the argument {word!r} holds what can't be passed on: only UTF-8 text without NUL can")
    if not CONTROL.search(word):
        return shlex.quote(word)
    return "$'" + ESCAPED.sub(lambda match: f"\\x{ord(match[0]):02x}", word) + "'"


def command(*words: str | Path) -> str:
    """A command of these words; a long one goes on in further lines."""
    quoted = [quote(str(word)) for word in words]
    if len(" ".join(quoted)) <= LINE:
        return " ".join(quoted)
    lines = [quoted[0]]
    for word in quoted[1:]:
        if len(lines[-1]) + len(word) < LINE - 2:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return " \\\n".join(lines)


def one_line(words: Iterable[str | Path]) -> str:
    """A command of these words in a single line, as a remote shell or another program's option takes it."""
    return " ".join(quote(str(word)) for word in words)


def assignments(environment: Mapping[str, str]) -> list[str]:
    """Words that run a command with these variables set: env NAME=value ..., or none."""
    return ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []


def indented(lines: str) -> str:
    """Commands as the body of a function. Not for text that has lines of its own to keep, as a file has."""
    return "\n".join(f"  {line}" if line else line for line in lines.splitlines())


def write_file(path: Path, text: str) -> str:
    """A command that writes `text` to `path`, exactly."""
    end = "END_OF_FILE"
    while end in text.splitlines():
        end += "_"
    return f"cat > {quote(str(path))} <<'{end}'\n{text.rstrip()}\n{end}"


def needs(tool: str, install: str) -> str:
    """A command that stops, saying what to install, where `tool` is not on the path."""
    message = f"error: {tool} is not on the path; install it: {install}"
    return f"command -v {tool} > /dev/null || {{ echo {quote(message)} >&2; exit 127; }}"


def script(title: str, *parts: str) -> str:
    """A whole bash script. `title` becomes a comment."""
    comment = "\n".join(f"# {line}" for line in CONTROL.sub(" ", title).splitlines())
    body = "\n".join(part for part in parts if part)
    return f"#!/usr/bin/env bash\n{comment}\nset -euo pipefail\n{body}\n"


# Lines `[HOST] text` are shown as they come and also kept by host: LOGS/JOB/HOST.log.
BY_HOST = r"""
by_host() {
  LOGS="$logs" awk '{
    if (match($0, /^\[[^] ]*\] /)) {
      host = substr($0, 2, RLENGTH - 3); line = substr($0, RLENGTH + 1)
      sub(/^pod\//, "", host); sub(/\/[^\/]*$/, "", host)
      file = ENVIRON["LOGS"] "/" host ".log"; print line >> file; fflush(file)
    }
    print; fflush()
  }'
}
""".strip()


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
