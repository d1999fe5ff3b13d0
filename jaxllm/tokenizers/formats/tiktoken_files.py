"""Rank files as tiktoken reads them: a line for each token, its bytes in base64 and its rank, which is its id.

The files hold no patterns and no special tokens; those of OpenAI's encodings are written down here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from jaxllm.tokenizers.formats import storage
from jaxllm.tokenizers.pipeline import PipelineTokenizer
from jaxllm.tokenizers.preparation.split_patterns import SPLIT_PATTERNS
from jaxllm.tokenizers.protocol import END_OF_TEXT
from jaxllm.tokenizers.vocabularies.byte_bpe import ByteLevelBPE
from jaxllm.tokenizers.vocabularies.byte_level import byte_level_tokenizer

_FILL_IN_THE_MIDDLE = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_END_OF_PROMPT = "<|endofprompt|>"
_HARMONY = {
    "<|startoftext|>": 199998,
    END_OF_TEXT: 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    _END_OF_PROMPT: 200018,
}


class RankEncoding(NamedTuple):
    """What a rank file of OpenAI's leaves unsaid."""

    ranks: int
    """tokens in the file"""
    split: str
    special_tokens: dict[str, int]


ENCODINGS: dict[str, RankEncoding] = {
    "r50k_base": RankEncoding(50256, "gpt2", {END_OF_TEXT: 50256}),
    "p50k_base": RankEncoding(50280, "gpt2", {END_OF_TEXT: 50256}),
    "p50k_edit": RankEncoding(
        50280, "gpt2", {END_OF_TEXT: 50256} | {name: 50281 + i for i, name in enumerate(_FILL_IN_THE_MIDDLE)}
    ),
    "cl100k_base": RankEncoding(
        100256,
        "cl100k",
        {name: 100257 + i for i, name in enumerate((END_OF_TEXT, *_FILL_IN_THE_MIDDLE))} | {_END_OF_PROMPT: 100276},
    ),
    "o200k_base": RankEncoding(199998, "o200k", {END_OF_TEXT: 199999, _END_OF_PROMPT: 200018}),
    # The open-weight models' chat format. tiktoken gives "<|reserved_200018|>" and "<|endofprompt|>" one id, and ids
    # stand for one token here, so the reserved name is left out.
    "o200k_harmony": RankEncoding(
        199998,
        "o200k",
        _HARMONY | {f"<|reserved_{i}|>": i for i in range(200000, 201088) if i not in set(_HARMONY.values())},
    ),
}


def read_ranks(path: str | PathLike[str]) -> dict[bytes, int]:
    """The rank of each token. Raises ValueError, naming the file and the line, for a file that is malformed."""
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"{path}: there is no rank file here") from error
    ranks: dict[bytes, int] = {}
    taken: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            token, rank = _entry(line)
            if token in ranks:
                raise ValueError(f"the token {token!r} is there already, with rank {ranks[token]}")
            if rank in taken:
                raise ValueError(f"the rank {rank} is there already, in line {taken[rank]}")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        ranks[token], taken[rank] = rank, number
    if not ranks:
        raise ValueError(f"{path}: has no tokens; expected lines of a token in base64 and its rank")
    return ranks


def _entry(line: bytes) -> tuple[bytes, int]:
    expected = f"expected a token in base64, a space and its rank, found {line[:80]!r}"
    match line.split(b" "):
        case [encoded, rank] if encoded and rank.isdigit() and len(rank) < 10:
            try:
                return base64.b64decode(encoded, validate=True), int(rank)
            except binascii.Error as error:
                raise ValueError(f"{expected}: {error}") from error
    raise ValueError(expected)


def write_ranks(path: str | PathLike[str], ranks: Mapping[bytes, int]) -> None:
    """Writes a file that read_ranks and tiktoken read, in the order of ranks; whole or not at all."""
    lines = [
        base64.b64encode(token) + b" %d\n" % rank for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    ]
    storage.replace_file(path, b"".join(lines))


def ranks_of(vocabulary: ByteLevelBPE) -> dict[bytes, int]:
    """The ranks that a file of this vocabulary holds.

    tiktoken merges whatever makes a token of the lowest id, so the merges must make tokens in the order of their ids,
    as those of trained vocabularies do. Raises ValueError if they don't.
    """
    if vocabulary.is_by_ranks:
        return dict(vocabulary.vocabulary)
    made = [vocabulary.vocabulary[left + right] for left, right in vocabulary.merges]
    if any(a > b for a, b in zip(made, made[1:], strict=False)):
        raise ValueError("the merges don't make tokens in the order of their ids, which a rank file can't express")
    if made and made[0] < 256:
        raise ValueError("the ids of the bytes are not below those of the merged tokens, as a rank file needs them")
    return dict(vocabulary.vocabulary)


def read_tiktoken(path: str | PathLike[str], encoding: str) -> PipelineTokenizer:
    """The tokenizer of a rank file; encoding says whose patterns and special tokens go with it, as in ENCODINGS.

    Raises ValueError, naming the file, for an unknown encoding, or a file that is malformed or another encoding's.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"the encoding {encoding!r} is unknown; known are {', '.join(ENCODINGS)}")
    expected = ENCODINGS[encoding]
    ranks = read_ranks(path)
    if len(ranks) != expected.ranks:
        raise ValueError(f"{path}: has {len(ranks):,} tokens, but {encoding} has {expected.ranks:,}")
    try:
        vocabulary = ByteLevelBPE.from_ranks(ranks)
        return byte_level_tokenizer(vocabulary, SPLIT_PATTERNS[expected.split], expected.special_tokens)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
