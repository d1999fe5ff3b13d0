"""Look into a tokenizer: its stages, a text in colours, a word's merges, tokens of no use."""

from __future__ import annotations

import argparse
from typing import Any

TOKENIZER = (
    "a directory or file: tokenizer.json, a SentencePiece .model, .tiktoken ranks, vocab.json with merges.txt, "
    "vocab.txt, a .gguf; or the directory of a run or a model"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", help=TOKENIZER)
    parser.add_argument("--text", help="show its tokens, a colour each")
    parser.add_argument("--word", help="show the merges that make its tokens, one after the other")
    parser.add_argument(
        "--data", metavar="PATH", help='a file, folder or glob, or "stdlib": count how it uses the tokens'
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="a run or saved model: list the tokens that its embeddings look untrained on"
    )
    parser.add_argument("--unreachable", action="store_true", help="list the tokens that no text is encoded as")
    parser.add_argument("--limit", metavar="N", type=int, default=20, help="entries of each list [%(default)s]")


def inspect(options: argparse.Namespace) -> int:
    """Look into a tokenizer: its stages, a text in colours, a word's merges, tokens of no use."""
    from rich.console import Console

    from jaxllm.tokenizers import load

    if options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    tokenizer, console = load(options.tokenizer), Console(highlight=False, soft_wrap=True, markup=False)
    wanted = (options.text, options.word, options.data, options.model)
    if all(value is None for value in wanted) and not options.unreachable:
        _print_stages(console, tokenizer)
    if options.text is not None:
        _print_tokens(console, tokenizer, options.text)
    if options.word is not None:
        _print_merges(console, tokenizer, options.word)
    if options.data is not None:
        _print_use(console, tokenizer, options.data, options.limit)
    if options.unreachable:
        from jaxllm.tokenizers.inspection import reachability

        found = reachability(tokenizer)
        console.print(
            f"{len(found.reachable):,} tokens can be made, {len(found.partial):,} are parts of characters, "
            f"{len(found.unreachable):,} are out of reach: {_listed(tokenizer, found.unreachable, options.limit)}"
        )
    if options.model is not None:
        _print_undertrained(console, tokenizer, options.model, options.limit)
    return 0


def _print_stages(console: Any, tokenizer: Any) -> None:
    console.print(f"{tokenizer.vocab_size:,} ids, {type(tokenizer.vocabulary).__name__}")
    for name, steps in (
        ("normalizer", tokenizer.normalizer),
        ("pre-tokenizer", tokenizer.pre_tokenizer),
        ("decoder", tokenizer.decoder.steps),
    ):
        console.print(f"{name + ':':<15}{'; '.join(map(str, steps)) or 'none'}")
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    shown = ", ".join(f"{name} {i}" for name, i in special[:8])
    console.print(f"special tokens: {shown or 'none'}{f', and {len(special) - 8} more' if len(special) > 8 else ''}")
    console.print(f"fingerprint:   {tokenizer.fingerprint()}")


def _print_tokens(console: Any, tokenizer: Any, text: str) -> None:
    from rich.text import Text

    ids, offsets = tokenizer.encode_with_offsets(text)
    colours = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
    line, end = Text(), 0
    for place, (begin, stop) in enumerate(offsets):
        # Several tokens may be parts of one character: it is shown with the first of them.
        line.append(text[end : max(begin, end)])
        line.append(text[max(begin, end) : stop], style=colours[place % len(colours)])
        end = max(end, stop)
    line.append(text[end:])
    console.print(line)
    console.print(" ".join(f"{i}:{tokenizer.token_text(i)}" for i in ids))
    size = len(text.encode("utf-8"))
    console.print(
        f"{len(ids):,} tokens, {len(text):,} characters, {size:,} bytes: {size / max(len(ids), 1):.2f} bytes per token"
    )


def _print_merges(console: Any, tokenizer: Any, word: str) -> None:
    from jaxllm.tokenizers.inspection import merge_trace

    for trace in merge_trace(tokenizer, word):
        how = "is a token as a whole" if trace.whole else f"begins as {' '.join(trace.symbols)}"
        console.print(f"{trace.piece!r} {how}")
        for step in trace.steps:
            console.print(f"  {step.rank:>7,}  {step.left} + {step.right}  ->  {' '.join(step.tokens)}")


def _print_use(console: Any, tokenizer: Any, data: str, limit: int) -> None:
    from jaxllm.data.config import DataConfig
    from jaxllm.data.corpus import source_documents
    from jaxllm.tokenizers.inspection import token_use

    use = token_use(tokenizer, (document.text for document in source_documents(DataConfig(path=data))))
    exponent, fit = use.zipf()
    console.print(f"{use.tokens:,} tokens, {use.used:,} different ones; count ~ rank^-{exponent:.2f} (r² {fit:.2f})")
    common = ", ".join(f"{tokenizer.token_text(i)} {count:,}" for i, count in use.most_common(limit))
    console.print(f"most common: {common}")
    console.print(f"unused: {len(use.unused):,} tokens: {_listed(tokenizer, use.unused, limit)}")


def _print_undertrained(console: Any, tokenizer: Any, model: str, limit: int) -> None:
    from jaxllm.inference import load
    from jaxllm.tokenizers.inspection import undertrained_tokens

    lm = load(model)
    found = undertrained_tokens(tokenizer, lm.params.embedding, lm.params.head)
    console.print(f"looking least trained by {found.kind}, the least first:")
    console.print(_listed(tokenizer, found.ids, limit))


def _listed(tokenizer: Any, ids: Any, limit: int) -> str:
    shown = ", ".join(f"{i}:{tokenizer.token_text(int(i))}" for i in ids[:limit])
    return (shown or "none") + (f", and {len(ids) - limit:,} more" if len(ids) > limit else "")
