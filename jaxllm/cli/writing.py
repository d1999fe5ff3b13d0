"""How text that a model writes reaches the terminal, and the options that shape it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

# Fields of SamplingConfig, named here so that `--help` does not wait for jax; a test compares them.
SAMPLING = {
    "temperature": (float, "below 1 sharpens, above 1 flattens, 0 takes the likeliest token"),
    "top_k": (int, "draw among the k likeliest tokens; 0 is off"),
    "top_p": (float, "draw among the fewest tokens whose probabilities reach this sum; 1 is off"),
    "min_p": (float, "draw among tokens at least this fraction as likely as the likeliest; 0 is off"),
    "repetition_penalty": (float, "above 1 makes tokens that occurred before less likely; 1 is off"),
}
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def add_options(parser: argparse.ArgumentParser, length_note: str = "%(default)s", **defaults: float) -> None:
    """Options for the model, the length of a text, its randomness and its end."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run directory, RUN/checkpoints/STEP, a saved model, a GGUF file, or a name such as smollm2",
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="type to compute in [the model's own]")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help=f"longest text [{length_note}]")
    for name, (kind, meaning) in SAMPLING.items():
        option = "--" + name.replace("_", "-")
        default = defaults.get(name, DEFAULTS[name])
        parser.add_argument(option, metavar="X", type=kind, default=default, help=f"{meaning} [%(default)s]")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="the same seed, the same text [%(default)s]")
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end where this would be written; may be repeated"
    )


def sampling_config(options: argparse.Namespace) -> Any:
    """The SamplingConfig that the options ask for."""
    from jaxllm.inference import SamplingConfig

    return SamplingConfig(**{name: getattr(options, name) for name in SAMPLING})


class Page:
    """Standard output, written to as text comes."""

    def __init__(self):
        self._on_terminal = sys.stdout.isatty()
        self._last = ""

    def write(self, text: str) -> None:
        """Show it at once. A terminal gets U+FFFD for what would steer it; files and pipes get the text as it is."""
        print(printable(text) if self._on_terminal else text, end="", flush=True)
        self._last = text[-1:] or self._last

    def end(self) -> None:
        """Whatever comes next begins on a new line."""
        if self._last != "\n":
            self.write("\n")
        self._last = "\n"


def printable(text: str) -> str:
    """Without control characters other than line ends and tabs."""
    return "".join(c if c in "\n\t" or not _is_control(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _is_control(character: str) -> bool:
    return ord(character) < 32 or 127 <= ord(character) < 160
