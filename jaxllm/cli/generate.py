"""Continue a prompt with a trained model."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jaxllm.cli.writing import Page, add_options, sampling_config


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxllm generate",
        description="Continue a prompt with a trained model. "
        "The text goes to standard output, how fast it came to standard error.",
    )
    add_options(parser)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        required=True,
        help='what to continue: "" lets the model begin a document by itself, - reads standard input as it is',
    )
    parser.add_argument(
        "--num-samples", metavar="N", type=int, default=1, help="texts to write, each with the next seed [%(default)s]"
    )
    parser.add_argument("--chat", action="store_true", help="the prompt is a message: a chat model answers it")
    options = parser.parse_args(arguments)
    if options.num_samples < 1:
        raise ValueError(f"--num-samples must be at least 1, got {options.num_samples}")
    prompt = read_prompt() if options.prompt == "-" else options.prompt
    sampling = sampling_config(options)

    from jaxllm.inference import Completions, load

    lm = load(options.model, dtype=options.dtype)
    if options.chat:
        from jaxllm.cli.conversation import chat_prompt

        prompt = chat_prompt(lm, [{"role": "user", "content": prompt}])
    completions = Completions(
        lm,
        [prompt] * options.num_samples,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling,
        seed=[options.seed + i for i in range(options.num_samples)],
        stop=options.stop,
        chunk=1 if options.num_samples == 1 else 16,
    )
    page = Page()
    if options.num_samples == 1:
        for _, text in completions:
            page.write(text)
        page.end()
    else:
        for i, generation in enumerate(completions.results()):
            page.write(f"--- sample {i + 1}, seed {options.seed + i}\n{generation.text}")
            page.end()
    print(describe(completions), file=sys.stderr)
    return 0


def read_prompt() -> str:
    """All of standard input. Raises ValueError when it is empty or no UTF-8."""
    content = sys.stdin.buffer.read()
    if not content:
        raise ValueError('standard input is empty: send a prompt, or begin a document with --prompt ""')
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = content[error.start]
        raise ValueError(f"standard input is not UTF-8 text: byte {error.start} is {wrong:#04x}") from error


def describe(completions: Any) -> str:
    """A line on how long the text is, why it ended and how fast it came."""
    results, decoding = completions.results(), completions.decoding
    tokens = sum(len(result.tokens) for result in results)
    reasons = ", ".join(dict.fromkeys(result.finish_reason for result in results))
    # The first token of each row is the prompt's work.
    rate = decoding.decoded_tokens / decoding.decode_seconds if decoding.decoded_tokens else None
    return (
        f"prompt of {results[0].prompt_tokens} tokens, {decoding.prefill_seconds:.2f} s to the first token; "
        f"{tokens} tokens written{'' if rate is None else f', {rate:,.1f} tokens/s'}; ended by {reasons}"
    )
