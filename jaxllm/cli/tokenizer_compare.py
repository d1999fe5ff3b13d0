"""Compare tokenizers on text: bytes per token, fertility, numbers and white space."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxllm.cli.tokenizer_inspect import TOKENIZER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizers", nargs="+", metavar="[NAME=]TOKENIZER", help=TOKENIZER)
    parser.add_argument(
        "--data",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="text to compare on: a file, folder or glob; may be given more than once. Without it: ten sentences in "
        "five languages, and Python's own documentation and source code",
    )
    parser.add_argument("--reference", metavar="NAME", help="how many times the tokens of this text the others take")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw bytes per token into a .png, .svg or .pdf")


def compare(options: argparse.Namespace) -> int:
    """Compare tokenizers on text: bytes per token, fertility, numbers and white space."""
    from rich.console import Console

    from jaxllm.tokenizers import load
    from jaxllm.tokenizers.comparison import compare, plot

    comparison = compare(
        {name: load(path) for name, path in _named(options.tokenizers).items()},
        {name: _texts(path) for name, path in _named(options.data).items()} or _own_samples(),
    )
    if options.reference and options.reference not in comparison.sample_names():
        raise ValueError(f"there is no text {options.reference!r}; there are {', '.join(comparison.sample_names())}")
    console = Console(highlight=False)
    console.print(_vocabulary_table(comparison))
    console.print(_sample_table(comparison, options.reference))
    if options.plot:
        print(plot(comparison, options.plot))
    return 0


def _named(arguments: list[str]) -> dict[str, str]:
    """NAME=PATH, or PATH alone, which then gives the name too."""
    named: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        name, path = (name, path) if equals else (Path(argument).name, argument)
        if name in named:
            raise ValueError(f"two are named {name!r}; give them names: NAME={path}")
        named[name] = path
    return named


def _texts(path: str) -> list[str]:
    from jaxllm.data.config import DataConfig
    from jaxllm.data.corpus import source_documents

    return [document.text for document in source_documents(DataConfig(path=path))]


def _own_samples() -> dict[str, list[str]]:
    from jaxllm.data.stdlib import stdlib_documents
    from jaxllm.tokenizers.sentences import PARALLEL_SENTENCES

    documents = {document.name: document.text for document in stdlib_documents(include_source=True)}
    samples = {language: list(sentences) for language, sentences in PARALLEL_SENTENCES.items()}
    samples["documentation"] = [text for name, text in documents.items() if name.startswith("topics/")]
    samples["code"] = [text for name, text in documents.items() if name.startswith("source/json/")]
    return samples


def _vocabulary_table(comparison: Any) -> Any:
    from rich.table import Table

    table = Table("tokenizer", box=None, pad_edge=False)
    for heading in ("ids", "numbers 0-9999\nas one token", "white space runs\nas one token"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.vocabularies:
        shares = (f"{share:.1%}" for share in (row.single_token_numbers, row.single_token_whitespace))
        table.add_row(row.tokenizer, f"{row.vocab_size:,}", *shares)
    return table


def _sample_table(comparison: Any, reference: str | None) -> Any:
    from rich.table import Table

    table = Table("text", "tokenizer", box=None, pad_edge=False)
    headings = ("tokens", "bytes\nper token", "tokens\nper word", "tokens\nper char.")
    for heading in (*headings, *([f"times\n{reference}"] if reference else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for sample in comparison.sample_names():
        for name in comparison.names():
            row = comparison.row(name, sample)
            cells = [f"{row.tokens:,}", *(f"{x:.2f}" for x in (row.bytes_per_token, row.fertility))]
            cells.append(f"{row.tokens_per_character:.2f}")
            if reference:
                cells.append(f"{comparison.premium(name, sample, reference):.2f}")
            table.add_row(sample, name, *cells)
    return table
