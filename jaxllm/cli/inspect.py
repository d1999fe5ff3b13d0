"""An architecture as a table of knobs, beside others, and as a picture of its blocks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from jaxllm.cli.architectures import MODEL, find_architecture


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxllm inspect", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    parser.add_argument("--differences", action="store_true", help="only knobs that are set differently")
    parser.add_argument(
        "--diagram", metavar="FILE", type=Path, help="draw the blocks of the first model into a .svg, .png or .pdf"
    )
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    options = parser.parse_intermixed_args(arguments)

    from jaxllm.pictures import check_ending
    from jaxllm.plan.block_diagram import draw_architecture
    from jaxllm.plan.knobs import knobs

    if options.diagram:
        check_ending(options.diagram)
    found = {source: find_architecture(source) for source in options.models}
    columns = {name: knobs(experiment.model) for name, (experiment, _) in found.items()}
    if options.differences:
        columns = _differing(columns)
    if options.json:
        print(json.dumps(columns, indent=2, ensure_ascii=False))
    else:
        _print(columns)
    if options.diagram:
        first, (experiment, _) = next(iter(found.items()))
        print(draw_architecture(experiment.model, options.diagram, first))
    return 0


def _differing(columns: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    names = [name for name in next(iter(columns.values())) if len({column[name] for column in columns.values()}) > 1]
    return {model: {name: column[name] for name in names} for model, column in columns.items()}


def _print(columns: dict[str, dict[str, str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from jaxllm.cli.plan_tables import console

    sheet = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    sheet.add_column("")
    for model in columns:
        sheet.add_column(model, overflow="fold")
    for name in next(iter(columns.values())):
        sheet.add_row(Text(name, style="bold"), *(Text(column[name]) for column in columns.values()))
    console().print(sheet)
