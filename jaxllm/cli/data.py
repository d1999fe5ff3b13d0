"""Prepare documents by a recipe, look at what was dropped, deduplicate, decontaminate."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.cli import data_inspect
from jaxllm.cli.data_tables import funnel_table, rates

if TYPE_CHECKING:
    from jaxllm.data.recipe import Recipe

PREPARED = Path("prepared")
METHODS = {
    "exact": "ExactDocuments",
    "paragraphs": "ExactParagraphs",
    "minhash": "MinHash",
    "simhash": "SimHash",
    "substrings": "RepeatedSubstrings",
}


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxllm data", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, action, add_arguments in (
        ("prepare", prepare, _prepare_arguments),
        ("inspect", data_inspect.inspect, data_inspect.add_arguments),
        ("dedup", dedup, _dedup_arguments),
        ("decontaminate", decontaminate, _decontaminate_arguments),
    ):
        first = action.__doc__.splitlines()[0]
        verb = verbs.add_parser(name, help=first, description=action.__doc__, allow_abbrev=False)
        add_arguments(verb)
        verb.set_defaults(action=action)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.action is data_inspect.inspect:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options.action(options)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the result is kept; prepared/NAME by default")
    parser.add_argument("--engine", metavar="NAME", default="local", help="local, processes or ray [%(default)s]")
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="tasks at a time; one a core by default")
    parser.add_argument("--address", metavar="HOST:PORT", default="", help="of a Ray cluster; RAY_ADDRESS by default")
    parser.add_argument("--settings", action="store_true", help="list the settings of the recipe and stop")
    parser.epilog = (
        "Every setting of the recipe is an option too, such as --shard_bytes=100000000, --stages.NAME.FIELD=VALUE or "
        "--sources.NAME.FIELD=VALUE; see --settings. A directory in which a run was ended is gone on with."
    )


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from jaxllm.data.recipe import recipes

    known = ", ".join(recipes()) or "none here"
    parser.add_argument("recipe", metavar="RECIPE", help=f"a Python file, or the name of a recipe: {known}")
    _run_arguments(parser)


def prepare(options: argparse.Namespace) -> int:
    """Run a recipe: documents, tokens, what was dropped and why."""
    from jaxllm.data.recipe import load_recipe

    overrides = ["--help"] if options.settings else options.rest
    recipe = load_recipe(options.recipe, overrides, prog=f"jaxllm data prepare {options.recipe}")
    return _run(recipe, options)


def _dedup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, folder or glob of documents")
    parser.add_argument("--method", metavar="NAME", default="minhash", help=f"{', '.join(METHODS)} [%(default)s]")
    _run_arguments(parser)


def dedup(options: argparse.Namespace) -> int:
    """Drop the documents, or parts of them, that are there more than once."""
    from jaxllm.config import did_you_mean

    if options.method not in METHODS:
        close = did_you_mean(options.method, METHODS)
        raise ValueError(f"unknown method {options.method!r}{close}\nknown: {', '.join(METHODS)}")
    from jaxllm.data import dedup

    stage = getattr(dedup, METHODS[options.method])()
    return _run(_recipe(options, "dedup", stage), options)


def _decontaminate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, folder or glob of documents")
    parser.add_argument("--against", metavar="EVAL", nargs="+", required=True, help="files of evaluation sets")
    _run_arguments(parser)


def decontaminate(options: argparse.Namespace) -> int:
    """Drop the documents that hold parts of evaluation sets."""
    from jaxllm.data.decontamination import Decontamination
    from jaxllm.data.evaluation_sets import EvaluationSet

    sets = tuple(EvaluationSet(_stem(path), path) for path in options.against)
    return _run(_recipe(options, "decontaminate", Decontamination(sets)), options)


def _recipe(options: argparse.Namespace, verb: str, stage: Any) -> Recipe:
    """A recipe of one source and one stage."""
    from jaxllm.data.recipe import Recipe, override
    from jaxllm.data.sources import Files

    name = _stem(options.path)
    recipe = Recipe(f"{name}-{verb}", (Files(options.path, name=name),), (stage,), tokens=False)
    return override(recipe, ["--help"] if options.settings else options.rest, prog=f"jaxllm data {verb}")


def _stem(path: str) -> str:
    """What to call the documents of a path: a file's name less its endings, or that of the folder of a pattern."""
    named = [part for part in Path(path).parts if "*" not in part]
    return (named[-1] if named else "").lstrip(".").partition(".")[0] or "documents"


def _run(recipe: Recipe, options: argparse.Namespace) -> int:
    from jaxllm.cli.data_progress import watcher
    from jaxllm.data.engines import make_engine
    from jaxllm.data.preparation import prepare

    out = options.out or PREPARED / recipe.name
    with closing(make_engine(options.engine, options.workers, options.address)) as engine, watcher() as watch:
        prepared = prepare(recipe, out, engine, watch)
    print(funnel_table(prepared.levels))
    print(rates(prepared.levels, prepared.timings))
    if prepared.problems:
        print(f"{len(prepared.problems):,} parts of the sources could not be read; they are listed in {out}/funnel.md")
    print(f"{out}: the report is funnel.md; jaxllm data inspect {out} shows what was dropped")
    return 0
