"""From a prompt to a text: what `jaxllm.generate` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxllm.inference.engine import CHUNK, Decoding
from jaxllm.inference.language_model import LanguageModel
from jaxllm.inference.sampling import SamplingConfig
from jaxllm.inference.stopping import TextStream

Prompt = str | Sequence[int]
FinishReason = Literal["stop", "end_of_text", "length"]


@dataclass(frozen=True)
class Generation:
    """How one prompt went on."""

    text: str
    """What follows the prompt, without the stop string that ended it."""
    tokens: list[int]
    """The ids behind it, up to and with the one that completed the stop string, or the end-of-text mark."""
    finish_reason: FinishReason
    """A stop string; the model's own mark; or `max_new_tokens` or the end of the model's context."""
    prompt_tokens: int
    """Length of the prompt, with the mark that begins a document."""


class Completions:
    """Continuations of a batch of prompts, while they are written: iterating gives `(row, text)` as soon as text is
    certain.

    A prompt is a text, which stands at the beginning of a document ("" lets the model begin by itself), or ids as they
    are. `chunk` is how many tokens come between two looks: 1 shows each as it comes; the text is the same for all.
    Raises ValueError for prompts, lengths, seeds and stop strings that cannot be.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
        seed: int | Sequence[int] = 0,
        stop: str | Sequence[str] = (),
        chunk: int = CHUNK,
    ):
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        self._streams = [TextStream(lm.tokenizer, stops) for _ in prompts]
        self._prompts = [encode_prompt(lm, prompt) for prompt in prompts]
        self._ends, self._chunk = lm.ends, chunk
        self._texts = [""] * len(prompts)
        self.tokens: list[list[int]] = [[] for _ in prompts]  # so far
        self.decoding = Decoding(
            lm.params,
            lm.config,
            self._prompts,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seeds=seed,
            vocab_size=lm.tokenizer.vocab_size,
            end_of_text=lm.ends,
        )

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while not self.decoding.finished:
            for row, new in enumerate(self.decoding.next(self._chunk)):
                if text := self._read(row, new):
                    yield row, text
        for row, stream in enumerate(self._streams):
            if text := stream.flush():
                self._texts[row] += text
                yield row, text

    def results(self) -> list[Generation]:
        """One for each prompt; writes what is still to be written."""
        for _ in self:
            pass
        return [
            Generation(self._texts[row], self.tokens[row], self._finish_reason(row), len(prompt))
            for row, prompt in enumerate(self._prompts)
        ]

    def _read(self, row: int, new: list[int]) -> str:
        stream, before = self._streams[row], len(self._texts[row])
        for token in new:
            self.tokens[row].append(token)
            self._texts[row] += stream.push(token)
            if stream.stopped:  # the rest of the chunk is not wanted
                self.decoding.finish(row)
                break
        return self._texts[row][before:]

    def _finish_reason(self, row: int) -> FinishReason:
        if self._streams[row].stopped:
            return "stop"
        return "end_of_text" if self.tokens[row][-1] in self._ends else "length"


def complete(lm: LanguageModel, prompts: Sequence[Prompt], **settings) -> list[Generation]:
    """How each prompt goes on; settings are those of `Completions`."""
    return Completions(lm, prompts, **settings).results()


def generate(
    lm: LanguageModel,
    prompt: str | list[str],
    *,
    max_new_tokens: int = 128,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
    seed: int | Sequence[int] = 0,
    stop: str | Sequence[str] = (),
    stream: Callable[[str], None] | None = None,
    **overrides: float,
) -> str | list[str]:
    """The text that follows a prompt, or one for each of a list.

    `overrides` are fields of `sampling`: temperature, top_k, top_p, min_p, repetition_penalty. A prompt with one seed
    gives the same text alone and in a list. `stream` is called with each piece of the text of a single prompt as it
    comes. Text ends at a stop string, at the model's end-of-text mark, after `max_new_tokens`, or at the end of the
    model's context. "" as a prompt lets the model begin a document by itself. Raises ValueError for a prompt that
    leaves no room in the context, and for settings out of range.
    """
    settings = {
        "max_new_tokens": max_new_tokens,
        "sampling": replace(sampling, **overrides),
        "seed": seed,
        "stop": stop,
    }
    if isinstance(prompt, str):
        completions = Completions(lm, [prompt], chunk=1 if stream else CHUNK, **settings)
        if stream:
            for _, text in completions:
                stream(text)
        return completions.results()[0].text
    if stream:
        raise ValueError("stream shows one text: give one prompt, or iterate over Completions for several")
    return [generation.text for generation in complete(lm, prompt, **settings)]


def generate_stream(
    lm: LanguageModel,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    sampling: SamplingConfig = SamplingConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    stop: str | Sequence[str] = (),
    **overrides: float,
) -> Iterator[str]:
    """The text that follows a prompt in pieces, each as soon as it is certain; joined they are what `generate`
    gives."""
    completions = Completions(
        lm,
        [prompt],
        max_new_tokens=max_new_tokens,
        sampling=replace(sampling, **overrides),
        seed=seed,
        stop=stop,
        chunk=1,
    )
    return (text for _, text in completions)


def encode_prompt(lm: LanguageModel, prompt: Prompt) -> list[int]:
    """Ids of a prompt. A text gets what begins a document, as every document of the training had it."""
    return lm.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)
