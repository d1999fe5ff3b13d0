"""Train a tokenizer, use it, look into it, compare several, convert between formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from jaxllm.cli import tokenizer_compare, tokenizer_inspect
from jaxllm.cli.tokenizer_inspect import TOKENIZER


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxllm tokenizer", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, action, add_arguments in (
        ("train", train, _train_arguments),
        ("encode", encode, _encode_arguments),
        ("decode", decode, _decode_arguments),
        ("inspect", tokenizer_inspect.inspect, tokenizer_inspect.add_arguments),
        ("compare", tokenizer_compare.compare, tokenizer_compare.add_arguments),
        ("convert", convert, _convert_arguments),
    ):
        verb = verbs.add_parser(name, help=action.__doc__.splitlines()[0], description=action.__doc__)
        add_arguments(verb)
        verb.set_defaults(action=action)
    options, rest = parser.parse_known_args(arguments)
    if rest and options.action is not train:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    return options.action(options)


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="PATH", required=True, help='a file, folder or glob of text, or "stdlib"')
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the tokenizer is written")
    parser.add_argument("--processes", metavar="N", type=int, default=1, help="that count pieces [%(default)s]")
    parser.epilog = (
        "Every setting of the tokenizer is an option too, such as --kind=unigram --vocab_size=8000; see --settings."
    )
    parser.add_argument("--settings", action="store_true", help="list the settings of the tokenizer and stop")


def train(options: argparse.Namespace) -> int:
    """Train a tokenizer on text."""
    from jaxllm.config import apply_overrides
    from jaxllm.data.config import DataConfig
    from jaxllm.data.corpus import source_documents
    from jaxllm.tokenizers import TokenizerConfig, train

    overrides = ["--help"] if options.settings else options.rest
    config = apply_overrides(TokenizerConfig(), overrides, prog="jaxllm tokenizer train")
    _refuse_existing(options.out)
    size = 0

    def texts():
        nonlocal size
        for document in source_documents(DataConfig(path=options.data)):
            size += len(document.text.encode("utf-8"))
            yield document.text

    tokenizer = train(config, texts(), processes=options.processes)
    tokenizer.save(options.out)
    print(f"{options.out}: {config.kind}, {tokenizer.vocab_size:,} tokens, from {size:,} bytes of text")
    return 0


def _encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", help=TOKENIZER)
    parser.add_argument("text", nargs="?", help="the text; without it, standard input")
    parser.add_argument("--allow-special", action="store_true", help="text that looks like a special token becomes it")
    parser.add_argument("--add-special-tokens", action="store_true", help="with the tokens around a text")
    parser.add_argument("--offsets", action="store_true", help="a line for each token: id, begin, end, text")


def encode(options: argparse.Namespace) -> int:
    """The ids of a text, on one line."""
    from jaxllm.tokenizers import load

    tokenizer, text = load(options.tokenizer), _text(options.text)
    allowed = "all" if options.allow_special else frozenset()
    if options.offsets:
        ids, offsets = tokenizer.encode_with_offsets(text, allowed_special=allowed)
        for i, (begin, end) in zip(ids, offsets, strict=True):
            print(f"{i}\t{begin}\t{end}\t{text[begin:end]!r}")
    else:
        print(*tokenizer.encode(text, allowed_special=allowed, add_special_tokens=options.add_special_tokens))
    return 0


def _decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", help=TOKENIZER)
    parser.add_argument("ids", nargs="*", help="the ids; without them, those on standard input")
    parser.add_argument("--show-special", action="store_true", help="special tokens by their names")


def decode(options: argparse.Namespace) -> int:
    """The text of ids."""
    from jaxllm.tokenizers import load

    words = [part for argument in options.ids or [_text(None)] for part in argument.replace(",", " ").split()]
    try:
        ids = [int(word) for word in words]
    except ValueError as error:
        raise ValueError(f"ids are whole numbers with spaces or commas between them: {error}") from error
    data = load(options.tokenizer).decode_bytes(ids, skip_special_tokens=not options.show_special)
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    from jaxllm.tokenizers.formats.load_and_write import Format

    parser.add_argument("tokenizer", help=TOKENIZER)
    parser.add_argument("out", type=Path, help="where it is written: a directory for huggingface and gpt2, else a file")
    parser.add_argument("--to", choices=get_args(Format), required=True, help="the format to write")


def convert(options: argparse.Namespace) -> int:
    """Write a tokenizer in another format; what the format can't express is refused."""
    from jaxllm.tokenizers import load
    from jaxllm.tokenizers.formats.load_and_write import write

    tokenizer = load(options.tokenizer)
    _refuse_existing(options.out)
    write(tokenizer, options.out, options.to)
    print(f"{options.out}: {tokenizer.vocab_size:,} tokens as {options.to}")
    return 0


def _text(argument: str | None) -> str:
    if argument is not None:
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: {error}") from error


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists already; name another place, or remove it first")
