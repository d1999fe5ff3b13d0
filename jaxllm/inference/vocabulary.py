"""Another vocabulary for a whole language model: its tokenizer and its tables change together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jaxllm.inference.language_model import LanguageModel
from jaxllm.models.vocabulary import remap_vocabulary
from jaxllm.tokenizers import surgery


def add_tokens(lm: LanguageModel, contents: Sequence[str], *, special: bool = False) -> LanguageModel:
    """A model with more tokens, each starting as the mean of the pieces that its text was made of so far.

    Raises ValueError for a token that is there already, and for one that the old vocabulary can't express.
    """
    tokenizer, sources = surgery.add_tokens(lm.tokenizer, contents, special=special)
    params, config = remap_vocabulary(lm.params, lm.config, sources)
    return replace(lm, config=config, params=params, tokenizer=tokenizer)


def prune_vocabulary(lm: LanguageModel, texts: Iterable[str]) -> LanguageModel:
    """A model with only the tokens that the texts use, and what other text needs at least: bytes or characters.

    On the texts it computes what it did before, among fewer tokens.
    """
    tokenizer, sources = surgery.prune(lm.tokenizer, texts)
    params, config = remap_vocabulary(lm.params, lm.config, sources)
    return replace(lm, config=config, params=params, tokenizer=tokenizer)
