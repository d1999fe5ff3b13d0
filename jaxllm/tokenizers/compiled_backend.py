"""The library tiktoken as a back end: the same ids as a byte-level BPE of this package, several times faster.

It is used only where it is asked for, and only after it has been shown to give the same ids; what it can't do is
refused, never done in another way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from jaxllm.tokenizers.formats.tiktoken_files import ranks_of
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.cuts import Split
from jaxllm.tokenizers.preparation.patterns import Regex
from jaxllm.tokenizers.preparation.split_patterns import TOTAL_PATTERNS
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE

PROBE = (
    "Once upon a time there were 1234567 dragons, weren't there? I'LL say they'd'VE seen 3.14159 of them.\r\n\r\n\t"
    "def f(x: int) -> str:\n        return f'{x!r}'  # ...\n\n   if a[0] != b->c && d::e //// /* */ \\n {}\n"
    "Ünïcödé naïve Straße ΑΒγ Привет мир, שלום עולם, مرحبا بالعالم, हिन्दी पाठ, ไทย, "
    "漢字かな交じり文、中文测试。한국어 텍스트\n"
    "e\u0301 a\u0308\u0323 ﬁ ² ½ Ⅷ ٣٤٥ \u00a0\u2003\u3000|\u200b|\u200d| 😀👩\u200d👩\u200d👧🇩🇪🏳️\u200d🌈 "
    "𝔘𝔫𝔦 𐍈 \U0001f9ec\ufffd\x00\x1f\x7f"
    "----------------====================                      \n\n\n\n<|endoftext|><|im_start|> HTMLParserXMLHttp"
)
"""Text of many kinds, on which the ids must be equal."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class CompiledTokenizer:
    """A PipelineTokenizer whose plain encoding is done by tiktoken; everything else is still its own.

    Calls of encode that name special tokens, or ask for them to be added, go through the pipeline. The methods are
    described at `Tokenizer`.
    """

    def __init__(self, tokenizer: PipelineTokenizer, probes: Iterable[str] = ()):
        """probes: texts on which the ids must be equal, besides PROBE.

        Raises ValueError, saying why, if tiktoken is not installed, if it can't do what this tokenizer does, or if it
        gives other ids for a token or a probe.
        """
        self.pipeline = tokenizer
        self._encoding = _tiktoken_encoding(tokenizer)
        for probe in (PROBE, *probes):
            _check_equal(probe, tokenizer.encode(probe), self._encoding.encode_ordinary(probe))

    def __reduce__(self):
        return CompiledTokenizer, (self.pipeline,)

    def __getattr__(self, name: str) -> Any:
        # Copying looks for methods before there is a pipeline.
        if name == "pipeline" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def encode(self, text: str, **special: Any) -> list[int]:
        if any(special.values()) or (not text.isascii() and _SURROGATE.search(text)):
            return self.pipeline.encode(text, **special)
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Iterable[str], processes: int = 1) -> list[list[int]]:
        """The ids of each text; so many threads share them."""
        if processes < 1:
            raise ValueError(f"processes must be at least 1, got {processes}")
        texts = list(texts)
        if any(not text.isascii() and _SURROGATE.search(text) for text in texts):
            return self.pipeline.encode_batch(texts)
        return self._encoding.encode_ordinary_batch(texts, num_threads=processes)


def _tiktoken_encoding(tokenizer: PipelineTokenizer) -> Any:
    try:
        import tiktoken
    except ModuleNotFoundError as error:
        raise ValueError(
            "the compiled back end is the package tiktoken, which is not installed: pip install tiktoken"
        ) from error
    vocabulary, pattern = tokenizer.vocabulary, _pattern(tokenizer)
    if not isinstance(vocabulary, ByteLevelBPE) or vocabulary.missing_bytes:
        raise ValueError("tiktoken can only stand in for a byte-level BPE that has all 256 bytes")
    if tokenizer.normalizer or any(not token.special for token in tokenizer.added_tokens):
        raise ValueError("tiktoken can't stand in for a tokenizer that normalizes text or has added words")
    try:
        ranks = ranks_of(vocabulary)
    except ValueError as error:
        raise ValueError(f"tiktoken can't stand in for this vocabulary: {error}") from error
    # tiktoken makes a token of a whole piece that is one; merges come to the same for all tokens, or they don't.
    for token, i in vocabulary.vocabulary.items():
        _check_equal(token, list(vocabulary.encode_bytes(token)), [i])
    return tiktoken.Encoding("jaxllm", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def _pattern(tokenizer: PipelineTokenizer) -> str:
    match tokenizer.pre_tokenizer:
        # A pattern that leaves gaps would lose text, since tiktoken knows matches only.
        case [Split(Regex(pattern), "Isolated", False) | Split(Regex(pattern), "Removed", True)] if (
            pattern in TOTAL_PATTERNS
        ):
            return pattern
    raise ValueError("tiktoken can only stand in for a tokenizer that cuts text by one of the patterns known here")


def _check_equal(of: str | bytes, expected: list[int], found: list[int]) -> None:
    if expected == found:
        return
    place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), 0)
    raise ValueError(
        f"tiktoken gives other ids than this tokenizer for {of[:40]!r}: from id number {place} on "
        f"{found[place : place + 5]} instead of {expected[place : place + 5]}; use the tokenizer itself"
    )
