"""Texts as vectors: an encoder as a value, and what makes one vector of each text.

Shape letters: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from jaxllm.interop.huggingface.beyond_decoders import load_other, read_other_config
from jaxllm.interop.huggingface.config_file import read_object
from jaxllm.models.config import EncoderConfig
from jaxllm.models.encoder import Encoder, encode, pool, unit_length
from jaxllm.parallel.sharding import Layout
from jaxllm.tokenizers import Tokenizer

SHORTEST = 16  # texts are padded to a power of two, at least this: few lengths, so few compilations
POOLING_FILE = Path("1_Pooling") / "config.json"
LENGTH_FILE = "sentence_bert_config.json"


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Everything that turns texts into vectors.

    Raises ValueError when the tokenizer has tokens that the encoder has no row for.
    """

    config: EncoderConfig
    params: Encoder = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    pooling: Literal["first", "mean"] = "mean"
    """What it was trained with: the vector at the first position, or the mean of all."""
    max_tokens: int = 512
    """Longer texts are cut, with the tokens around them kept."""

    def __post_init__(self):
        if self.tokenizer.vocab_size > self.config.trunk.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.vocab_size} tokens, the encoder only "
                f"{self.config.trunk.vocab_size}: they do not belong together"
            )


def load_text_encoder(directory: str | Path, *, layout: Layout | None = None, dtype: Any = None) -> TextEncoder:
    """The encoder in a directory of transformers or sentence-transformers, whose pooling and length are honoured.

    Without those, the mean and the model's own length. `layout` and `dtype` as in `jaxllm.load`. Raises ValueError when
    the directory holds another kind of model or no tokenizer, and for a pooling that is not supported.
    """
    directory = Path(directory)
    config = read_other_config(directory)
    if not isinstance(config, EncoderConfig):
        raise ValueError(
            f"{directory} holds what {type(config).__name__} describes, which is neither a language model nor an "
            "encoder of text: read it with jaxllm.interop.huggingface.beyond_decoders.load_other"
        )
    config, params, tokenizer = load_other(directory, layout=layout, dtype=dtype)
    if tokenizer is None:
        raise ValueError(f"{directory} has no tokenizer: looked for tokenizer.json and vocab.txt")
    longest = config.trunk.context_length
    if (directory / LENGTH_FILE).is_file():
        longest = min(longest, read_object(directory / LENGTH_FILE).get("max_seq_length") or longest)
    return TextEncoder(config, params, tokenizer, _read_pooling(directory / POOLING_FILE), longest)


def _read_pooling(file: Path) -> Literal["first", "mean"]:
    if not file.is_file():
        return "mean"
    entries = read_object(file)
    chosen = [name.removeprefix("pooling_mode_") for name, on in entries.items() if on is True]
    known = {"cls_token": "first", "mean_tokens": "mean"}
    poolings = [name for name in chosen if name != "include_prompt"]
    if len(poolings) != 1 or poolings[0] not in known:
        raise ValueError(f"{file}: the pooling {' + '.join(poolings)} is not supported; supported: {', '.join(known)}")
    return known[poolings[0]]


def embed_texts(
    encoder: TextEncoder, texts: Sequence[str], *, normalize: bool = True, batch_size: int = 32
) -> Float[np.ndarray, "N D"]:
    """One vector for each text, float32, of length one unless `normalize` is False: then products are cosines.

    Texts of like length are computed together, `batch_size` at a time; the order is that of `texts`. Raises ValueError
    for a single string, and for a batch size below 1.
    """
    if isinstance(texts, str):
        raise ValueError("embed_texts takes several texts: put the one into a list")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    ids = [encode_text(encoder, text) for text in texts]
    vectors = np.zeros((len(ids), encoder.config.trunk.d_model), np.float32)
    by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(ids), batch_size):
        rows = by_length[start : start + batch_size]
        length = min(_padded(max(len(ids[row]) for row in rows)), encoder.config.trunk.context_length)
        # A full batch always, so that its size is not one more program to compile.
        tokens, mask = np.zeros((batch_size, length), np.int32), np.zeros((batch_size, length), bool)
        for place, row in enumerate(rows):
            tokens[place, : len(ids[row])], mask[place, : len(ids[row])] = ids[row], True
        embedded = _embed(encoder.params, encoder.config, tokens, mask, encoder.pooling, normalize)
        vectors[rows] = np.asarray(embedded)[: len(rows)]
    return vectors


def encode_text(encoder: TextEncoder, text: str) -> list[int]:
    """Ids with the tokens that the model wants around a text, at most `max_tokens`."""
    ids = encoder.tokenizer.encode(text, add_special_tokens=True)
    if len(ids) <= encoder.max_tokens:
        return ids
    own = encoder.tokenizer.encode(text)
    before = next(n for n in range(len(ids) - len(own) + 1) if ids[n : n + len(own)] == own)
    after = ids[before + len(own) :]
    return ids[: encoder.max_tokens - len(after)] + after


def _padded(length: int) -> int:
    return max(SHORTEST, 1 << (length - 1).bit_length())


@partial(jax.jit, static_argnames=("config", "pooling", "normalize"))
def _embed(params, config, tokens_BT, mask_BT, pooling, normalize):
    vectors_BD = pool(encode(params, config, tokens_BT, mask=mask_BT), mask_BT, pooling)
    return unit_length(vectors_BD) if normalize else vectors_BD.astype("float32")
