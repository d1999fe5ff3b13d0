"""Draw the curves of runs into a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxllm.training.curves import ALONG, QUANTITIES, draw_curves
from jaxllm.training.history import History, read_history


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxllm plot", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
    parser.add_argument(
        "--out", type=Path, default=Path("plot.png"), help="picture to write: .png, .svg, .pdf; plot.png"
    )
    parser.add_argument("--x", choices=ALONG, default="step", help="what the curves run along; step")
    parser.add_argument(
        "--y",
        nargs="+",
        choices=QUANTITIES,
        default=["loss", "val_loss"],
        metavar="QUANTITY",
        help=f"what is drawn, a panel for each unit: {', '.join(QUANTITIES)}; loss val_loss",
    )
    options = parser.parse_intermixed_args(arguments)
    histories = read_histories(options.runs)
    path = draw_curves(histories, options.out, x=options.x, y=options.y)
    for name, history in histories.items():
        missing = [quantity for quantity in options.y if not len(history.series(quantity)[0])]
        if missing:
            print(f"{name}: no {', '.join(missing)} yet", file=sys.stderr)
        if history.unreadable_lines:
            print(f"{name}: {history.unreadable_lines} unreadable lines of metrics.jsonl left out", file=sys.stderr)
    print(path)
    return 0


def read_histories(directories: list[Path]) -> dict[str, History]:
    """Histories by the directories' names, or by their whole paths where two names are equal."""
    names = [directory.resolve().name for directory in directories]
    labels = names if len(set(names)) == len(names) else [str(directory) for directory in directories]
    return {label: read_history(directory) for label, directory in zip(labels, directories, strict=True)}
