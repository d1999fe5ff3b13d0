"""Encoding many texts in several processes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import partial
from itertools import chain

from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.tokenizers.worker_processes import batches, map_in_order


def encode_batch(tokenizer: Tokenizer, texts: Iterable[str], processes: int) -> list[list[int]]:
    """The ids of each text, as tokenizer.encode gives them.

    Texts are shared out by length, and one text is never divided. Starting the processes takes some tenths of a
    second, so this pays from some megabytes on. Raises ValueError unless there is at least one process, and what
    tokenizer.encode raises.
    """
    encoded: list[list[int]] = []
    for lengths, packed in map_in_order(partial(_encode, tokenizer), batches(texts), processes):
        ids = packed.tolist()
        begin = 0
        for length in lengths:
            encoded.append(ids[begin : begin + length])
            begin += length
    return encoded


def _encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[int], array]:
    """How many ids each text has, and all ids in an array: lists of them would take longer to send than to make."""
    encoded = list(map(tokenizer.encode, texts))
    return list(map(len, encoded)), array("I", chain.from_iterable(encoded))
