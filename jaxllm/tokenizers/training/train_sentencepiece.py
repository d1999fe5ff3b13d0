"""From text to a SentencePiece model: whitespace is a symbol of its own, and nothing else is known of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxllm.tokenizers.formats.sentencepiece_model import SentencePieceModel, WordBoundaries, model_of
from jaxllm.tokenizers.preparation.sentencepiece_normalizer import SentencePieceNormalizer
from jaxllm.tokenizers.training.counting import count_pieces
from jaxllm.tokenizers.training.train_character_bpe import learn_character_bpe
from jaxllm.tokenizers.training.train_unigram import UNKNOWN, learn_unigram


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    algorithm: Literal["unigram", "bpe"] = "unigram",
    *,
    normalizer: SentencePieceNormalizer | None = None,
    control_tokens: Sequence[str] = ("<s>", "</s>"),
    user_defined: Sequence[str] = (),
    byte_fallback: bool = False,
    processes: int = 1,
    **options,
) -> SentencePieceModel:
    """Learns a model of exactly `vocab_size` pieces; the unknown one has the id 0, then come those that are named.

    normalizer: all its fields but user_defined are taken as they are. control_tokens: no text becomes these.
    user_defined: these are made wherever text has them. processes: that count. options: of `learn_unigram` or
    `learn_character_bpe`. The same texts in any order, and any number of processes, give the same model. Raises
    ValueError for names that are there twice, and where those functions do.
    """
    if algorithm not in ("unigram", "bpe"):
        raise ValueError(f'algorithm must be "unigram" or "bpe", got {algorithm!r}')
    named = [UNKNOWN, *control_tokens, *user_defined]
    if twice := [name for i, name in enumerate(named) if name in named[:i]]:
        raise ValueError(f"the names of tokens must differ, but {twice[0]!r} is there twice")
    normalizer = replace(normalizer or SentencePieceNormalizer(), user_defined=tuple(user_defined))
    if normalizer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise ValueError(
            "training needs a normalizer that writes a space as U+2581 before each word: set escape_whitespaces to "
            "True and treat_whitespace_as_suffix to False"
        )
    pieces = count_pieces(texts, _Pieces(normalizer), processes)
    learn = learn_unigram if algorithm == "unigram" else learn_character_bpe
    vocabulary = learn(pieces, vocab_size, special_tokens=named, byte_fallback=byte_fallback, **options)
    model = model_of(vocabulary, replace(normalizer, user_defined=()), {name: named.index(name) for name in named})
    return replace(
        model,
        normalizer=normalizer,
        pieces=tuple(
            piece._replace(kind="user_defined") if piece.text in user_defined else piece for piece in model.pieces
        ),
    )


@dataclass(frozen=True)
class _Pieces:
    """The words of a text, without the tokens that are found in it before."""

    normalizer: SentencePieceNormalizer

    def __call__(self, text: str) -> list[str]:
        words = WordBoundaries()(self.normalizer(text))
        if not self.normalizer.user_defined:
            return words
        longest_first = sorted(self.normalizer.user_defined, key=len, reverse=True)
        named = re.compile("|".join(map(re.escape, longest_first)))
        return [part for word in words for part in named.split(word) if part]
