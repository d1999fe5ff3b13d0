"""The `jaxllm` command: finds the verb and turns errors into messages and exit statuses."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from jaxllm import __version__
from jaxllm.config import did_you_mean

# A verb's module has `run(arguments) -> exit status`; the first line of its docstring is the verb's help.
VERBS = {
    "quickstart": "jaxllm.cli.quickstart",
    "train": "jaxllm.cli.train",
    "generate": "jaxllm.cli.generate",
    "chat": "jaxllm.cli.chat",
    "tokenizer": "jaxllm.cli.tokenizer",
    "replay": "jaxllm.cli.replay",
    "runs": "jaxllm.cli.runs",
    "plot": "jaxllm.cli.plot",
    "plan": "jaxllm.cli.plan",
    "inspect": "jaxllm.cli.inspect",
    "data": "jaxllm.cli.data",
}

# Exit statuses: what was asked for can't be done; a run failed on its own; the shell's for Ctrl-C and closed pipes.
REFUSED, FAILED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line, by default the process's own; returns its exit status."""
    verb, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    match verb:
        case "--help" | "-h" | "help":
            print(_help())
            return 0
        case "--version":
            print(_versions())
            return 0
        case "":
            print(_help(), file=sys.stderr)
            return REFUSED
    if verb not in VERBS:
        print(f"error: unknown verb {verb!r}{did_you_mean(verb, VERBS)}\nknown: {', '.join(VERBS)}", file=sys.stderr)
        return REFUSED
    try:
        status = importlib.import_module(VERBS[verb]).run(arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be answered
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more at exit; let that have somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (ValueError, FloatingPointError, TimeoutError) as error:
        if os.environ.get("JAXLLM_TRACEBACK") == "1":
            raise
        print(f"error: {error}{_hint(error)}", file=sys.stderr)
        return _end(REFUSED if isinstance(error, ValueError) else FAILED)
    except Exception:
        if "jaxllm.parallel.start_up" in sys.modules:
            traceback.print_exc()
            _end(FAILED)
        raise


def _end(status: int) -> int:
    """Among several processes the interpreter must not wait, at its end, for those that wait for this one."""
    if "jaxllm.parallel.start_up" in sys.modules:
        sys.modules["jaxllm.parallel.start_up"].leave_at_once(status)
    return status


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {_first_line(module)}" for verb, module in VERBS.items())
    return (
        f"usage: jaxllm VERB ...\n\n{verbs}\n\n"
        "jaxllm VERB --help tells more. With JAXLLM_TRACEBACK=1 in the environment, errors show where they come from."
    )


def _first_line(module: str) -> str:
    """Of the module's docstring, read without importing it: some take a second to import."""
    spec = importlib.util.find_spec(module)
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text())).splitlines()[0]


def _versions() -> str:
    jax = importlib.metadata.version("jax")
    return f"jaxllm {__version__} (jax {jax}, Python {platform.python_version()})"


def _hint(error: Exception) -> str:
    """jaxllm's own errors say what to do; one from a library below may be a defect, and then its place counts."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    raised_by = Path(trace.tb_frame.f_code.co_filename).resolve()
    ours = Path(__file__).resolve().parent.parent
    return "" if raised_by.is_relative_to(ours) else "\n(set JAXLLM_TRACEBACK=1 to see where this comes from)"
