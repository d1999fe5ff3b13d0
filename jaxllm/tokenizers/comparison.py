"""Tokenizers side by side: how many tokens the same text takes, and what a larger vocabulary costs.

comparison = compare({"mine": mine, "gpt2": gpt2}, {"english": text, "code": source})
comparison.row("mine", "english").bytes_per_token
plot(comparison, "tokenizers.png")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from jaxllm.pictures import picture
from jaxllm.tokenizers.protocol import Tokenizer

NUMBERS = tuple(str(number) for number in range(10_000))
"""0 to 9999 as they are written"""

WHITESPACE_RUNS = tuple(character * length for character in " \t\n" for length in range(1, 17))
"""1 to 16 spaces, tabs or line ends"""


@dataclass(frozen=True)
class SampleRow:
    """One tokenizer on one text."""

    tokenizer: str
    sample: str
    bytes: int
    characters: int
    words: int
    """stretches of the text without white space; languages that don't put spaces between words have few"""
    tokens: int
    distinct: int
    """different tokens among them"""

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    @property
    def compression(self) -> float:
        """tokens per byte; 1 is a tokenizer of single bytes"""
        return self.tokens / self.bytes

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / self.characters

    @property
    def fertility(self) -> float:
        """tokens per word"""
        return self.tokens / self.words


@dataclass(frozen=True)
class VocabularyRow:
    """What is known of a tokenizer without a text."""

    tokenizer: str
    vocab_size: int
    single_token_numbers: float
    """the share of the numbers 0 to 9999 that are one token"""
    single_token_whitespace: float
    """the share of runs of 1 to 16 spaces, tabs or line ends that are one token"""


@dataclass(frozen=True)
class Comparison:
    """All tokenizers on all samples, both in the order in which they were given."""

    vocabularies: tuple[VocabularyRow, ...]
    samples: tuple[SampleRow, ...]

    def row(self, tokenizer: str, sample: str) -> SampleRow:
        """Raises ValueError for a name that was not compared."""
        for row in self.samples:
            if (row.tokenizer, row.sample) == (tokenizer, sample):
                return row
        raise ValueError(
            f"there is no {tokenizer!r} on {sample!r}; choose from {self.names()} on {self.sample_names()}"
        )

    def names(self) -> list[str]:
        """The tokenizers."""
        return [row.tokenizer for row in self.vocabularies]

    def sample_names(self) -> list[str]:
        """The samples."""
        return list(dict.fromkeys(row.sample for row in self.samples))

    def premium(self, tokenizer: str, sample: str, reference: str) -> float:
        """How many times the tokens of the reference a sample takes, which says the same in another language.

        Petrov et al. 2023 (arXiv:2305.15425) call this the premium that speakers of a language pay.
        """
        return self.row(tokenizer, sample).tokens / self.row(tokenizer, reference).tokens


def compare(tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, str | Sequence[str]]) -> Comparison:
    """Encodes each sample, a text or several texts, with each tokenizer; nothing in them is special.

    Raises ValueError if there are no tokenizers or no samples, or for a sample without a word.
    """
    if not tokenizers or not samples:
        raise ValueError("comparing takes at least one tokenizer and one sample of text")
    rows = []
    for name, sample in samples.items():
        texts = [sample] if isinstance(sample, str) else list(sample)
        words = sum(len(text.split()) for text in texts)
        if not words:
            raise ValueError(f"the sample {name!r} has no words")
        size, characters = sum(len(text.encode("utf-8")) for text in texts), sum(map(len, texts))
        for tokenizer_name, tokenizer in tokenizers.items():
            encoded = tokenizer.encode_batch(texts)
            distinct = len(set().union(*encoded))
            tokens = sum(map(len, encoded))
            rows.append(SampleRow(tokenizer_name, name, size, characters, words, tokens, distinct))
    vocabularies = [
        VocabularyRow(name, tokenizer.vocab_size, _single(tokenizer, NUMBERS), _single(tokenizer, WHITESPACE_RUNS))
        for name, tokenizer in tokenizers.items()
    ]
    order = {name: i for i, name in enumerate(tokenizers)}
    return Comparison(tuple(vocabularies), tuple(sorted(rows, key=lambda row: order[row.tokenizer])))


def _single(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of texts that are one token, which stands for all of them and is not the unknown one."""
    encoded = tokenizer.encode_batch(texts)
    whole = (
        len(ids) == 1 and tokenizer.token_bytes(ids[0]).decode("utf-8", "replace") in (text, f" {text}")
        for text, ids in zip(texts, encoded, strict=True)
    )
    return sum(whole) / len(texts)


@dataclass(frozen=True)
class VocabularyCost:
    """What a vocabulary costs a model, and what it saves."""

    vocab_size: int
    embedding_parameters: int
    """vocab_size * width, twice if the output has its own"""
    embedding_share: float
    """of all parameters"""
    tokens: float
    """that the text takes"""
    training_flops: float
    """on the text: 6 per token and parameter that takes part in a matrix product, so not the input's lookup"""


def vocabulary_cost(
    vocab_size: int, bytes_per_token: float, *, width: int, body_parameters: int, tied: bool, text_bytes: float
) -> VocabularyCost:
    """The trade between a vocabulary's parameters and the length of the text.

    body_parameters: all but the embeddings. Attention's cost, which grows with the square of a sequence, is left out.
    Raises ValueError for what can't be.
    """
    for name, value in (("vocab_size", vocab_size), ("width", width), ("bytes_per_token", bytes_per_token)):
        if not value > 0:
            raise ValueError(f"{name} must be more than 0, got {value}")
    if body_parameters < 0 or text_bytes < 0:
        raise ValueError(f"body_parameters and text_bytes can't be negative, got {body_parameters} and {text_bytes}")
    embedding = vocab_size * width * (1 if tied else 2)
    tokens = text_bytes / bytes_per_token
    flops = 6 * tokens * (body_parameters + vocab_size * width)
    return VocabularyCost(vocab_size, embedding, embedding / (embedding + body_parameters), tokens, flops)


def plot(comparison: Comparison, path: str | PathLike[str], *, title: str = "Bytes per token") -> Path:
    """Draws bytes per token, a bar for each tokenizer in a group for each sample; a .png, .svg or .pdf file.

    Raises ValueError if the file can't be written, or is of another kind.
    """
    names, samples = comparison.names(), comparison.sample_names()
    with picture(path, max(6.0, 0.25 * (len(names) + 1) * len(samples) + 2), 4.5) as figure:
        _draw_bars(figure.subplots(), comparison, names, samples, title)
    return Path(path)


def _draw_bars(axis, comparison: Comparison, names: Sequence[str], samples: Sequence[str], title: str) -> None:
    from matplotlib import colormaps

    width = 0.8 / len(names)
    for i, name in enumerate(names):
        heights = [comparison.row(name, sample).bytes_per_token for sample in samples]
        places = [group + (i - (len(names) - 1) / 2) * width for group in range(len(samples))]
        axis.bar(places, heights, width, label=name, color=colormaps["tab10" if len(names) <= 10 else "tab20"](i % 20))
    axis.set_xticks(range(len(samples)), samples, rotation=0 if len(samples) <= 6 else 45)
    axis.set_ylabel("bytes per token")
    axis.set_title(title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=min(len(names), 4))
