"""List the runs of a folder: how far, how well, how fast."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxllm.training.amounts import short_count, short_time
from jaxllm.training.history import Summary, summarize

MISSING = "-"


def _steps(summary: Summary) -> str:
    return f"{summary.step:,}/{MISSING if summary.steps is None else f'{summary.steps:,}'}"


def _status(summary: Summary) -> str:
    return f"stopped at {summary.step:,}" if summary.status == "stopped" else summary.status


def _started(summary: Summary) -> str | None:
    return summary.started and datetime.datetime.fromtimestamp(summary.started).strftime("%Y-%m-%d %H:%M")


def _shown(field: str, show: Callable[[Any], str]) -> Callable[[Summary], str | None]:
    return lambda summary: None if getattr(summary, field) is None else show(getattr(summary, field))


# Heading, how it is read off a summary, and its turn to go when the terminal is too narrow (0 never goes).
COLUMNS: tuple[tuple[str, Callable[[Summary], str | None], int], ...] = (
    ("status", _status, 0),
    ("step", _steps, 0),
    ("parameters", _shown("parameters", short_count), 5),
    ("tokens", _shown("tokens", short_count), 2),
    ("loss", _shown("loss", "{:.4f}".format), 6),
    ("val_loss", _shown("val_loss", "{:.4f}".format), 0),
    ("val_bpb", _shown("val_bpb", "{:.4f}".format), 4),
    ("tokens/s", _shown("tokens_per_second", short_count), 3),
    ("time", _shown("seconds", short_time), 7),
    ("started", _started, 1),
)
COLOURS = {"running": "green", "stopped": "yellow", "not started": "dim"}


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxllm runs", description=__doc__)
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("runs"), help="folder of runs, or one run; runs"
    )
    folder = parser.parse_args(arguments).directory
    summaries, unreadable = {}, []
    for directory in find_runs(folder):
        try:
            summaries[directory] = summarize(directory)
        except ValueError as error:
            unreadable.append(str(error))
    if summaries:
        _print_table(summaries)
    for message in unreadable:
        print(f"left out: {message}", file=sys.stderr)
    return 2 if unreadable else 0


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder by name, or the folder itself if it is one. Raises ValueError if there is none."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; jaxllm train keeps its runs in runs/")
    if _is_run(folder):
        return [folder]
    found = sorted(child for child in folder.iterdir() if _is_run(child))
    if not found:
        raise ValueError(f"{folder} holds no runs: none of its folders has a config.json or a metrics.jsonl")
    return found


def _is_run(directory: Path) -> bool:
    return (directory / "config.json").is_file() or (directory / "metrics.jsonl").is_file()


def _print_table(summaries: dict[Path, Summary]) -> None:
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    if not console.is_terminal:
        console.width = 250  # a file or another program takes lines of any length
    columns = list(COLUMNS)
    table = _table(summaries, columns)
    unbounded = console.options.update(width=10_000)
    for _, _, turn in sorted((c for c in COLUMNS if c[2]), key=lambda c: c[2]):
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            break
        columns = [c for c in columns if c[2] != turn]
        table = _table(summaries, columns)
    console.print(table)


def _table(summaries: dict[Path, Summary], columns: list[tuple[str, Callable[[Summary], str | None], int]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for heading, _, _ in columns:
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("status", "started") else "right")
    for directory, summary in summaries.items():
        cells = [Text(show(summary) or MISSING) for _, show, _ in columns]
        cells[0].stylize(COLOURS.get(summary.status, ""))
        table.add_row(Text(directory.resolve().name, style="bold"), *cells)
    return table
