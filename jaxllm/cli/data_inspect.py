"""The verb `jaxllm data inspect`."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxllm.cli.data_tables import funnel_table, table
from jaxllm.cli.writing import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", help="a prepared directory, a file of dropped documents, or documents of any kind"
    )
    parser.add_argument("--stage", metavar="NAME", default="", help="only what this stage dropped")
    parser.add_argument("--reason", metavar="TEXT", default="", help="only reasons with these words in them")
    parser.add_argument("--examples", metavar="N", type=int, default=3, help="shown for each reason [%(default)s]")
    parser.add_argument("--length", metavar="N", type=int, default=240, help="characters of each [%(default)s]")
    parser.add_argument("--kept", action="store_true", help="of a prepared directory: what was kept, to compare with")


def inspect(options: argparse.Namespace) -> int:
    """What was dropped, by reason, with examples drawn by chance; or what a file of documents holds."""
    from jaxllm.data.inspection import dropped_files, is_dropped_file
    from jaxllm.data.preparation import open_prepared

    path = Path(options.path)
    if (path / "manifest.json").is_file() or (path / "work").is_dir():
        prepared = open_prepared(path)
        if options.kept:
            _show_contents(options)
            return 0
        print(funnel_table(prepared.levels))
        for problem in prepared.problems:
            print(f"could not be read: {printable(problem)}")
        _show_reasons(dropped_files(path), options)
    elif path.is_file() and is_dropped_file(path):
        _show_reasons([path], options)
    else:
        _show_contents(options)
    return 0


def _show_reasons(files: list[Path], options: argparse.Namespace) -> None:
    from jaxllm.data.inspection import reasons_in

    chosen = {"stage": options.stage, "containing": options.reason}
    groups = reasons_in(files, **chosen, examples=options.examples, length=options.length)
    if not groups:
        print(f"\nnothing was dropped{f' for a reason with {options.reason!r} in it' if options.reason else ''}")
    stage_before = None
    for (stage, reason), group in groups.items():
        if stage != stage_before:
            print(f"\n{printable(stage)}")
            stage_before = stage
        print(f"  {group.documents:,}  {printable(reason)}")
        for example in group.examples:
            print(f"      {printable(example.id)} ({example.length:,} characters)\n        {printable(example.text)}")


def _show_contents(options: argparse.Namespace) -> None:
    from jaxllm.data.inspection import contents_of

    found = contents_of(options.path, examples=options.examples, length=options.length)
    print(f"{found.documents:,} documents, {found.bytes:,} bytes")
    print(table(["source", "documents"], [[name, f"{count:,}"] for name, count in sorted(found.sources.items())]))
    percentiles = ", ".join(f"{q}%: {size:,}" for q, size in found.lengths.items())
    print(f"bytes of a document, by percentile: {percentiles}")
    for problem in found.problems:
        print(f"could not be read: {printable(problem)}")
    for example in found.examples:
        print(f"\n  {printable(example.id)} ({example.length:,} characters)\n    {printable(example.text)}")
