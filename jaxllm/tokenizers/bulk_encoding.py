"""Encoding many texts in several processes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import partial
from itertools import chain

from jaxllm.tokenizers.protocol import Tokenizer
from jaxllm.tokenizers.worker_processes import Workers, batches


class BulkEncoder:
    """Encodes batches of texts in processes that stay, and so remember the pieces that they have seen.

    with BulkEncoder(tokenizer, processes=8) as encode:
        for shard in shards:
            ids = encode(shard)
    """

    def __init__(self, tokenizer: Tokenizer, processes: int):
        """Raises ValueError unless there is at least one process."""
        self._tokenizer, self._processes = tokenizer, processes
        self._workers = Workers(partial(_encode, tokenizer), processes)

    def __enter__(self) -> BulkEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def __call__(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, as tokenizer.encode gives them; raises what it raises.

        Texts are shared out by length, and one text is never divided.
        """
        if self._processes == 1:
            return list(map(self._tokenizer.encode, texts))
        encoded: list[list[int]] = []
        for lengths, packed in self._workers.map(batches(texts)):
            ids, begin = packed.tolist(), 0
            for length in lengths:
                encoded.append(ids[begin : begin + length])
                begin += length
        return encoded


def encode_batch(tokenizer: Tokenizer, texts: Iterable[str], processes: int) -> list[list[int]]:
    """The ids of each text, as a BulkEncoder of its own gives them.

    Starting the processes takes some tenths of a second, so this pays from some megabytes on.
    """
    with BulkEncoder(tokenizer, processes) as encode:
        return encode(texts)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[int], array]:
    """How many ids each text has, and all ids in an array: lists of them would take longer to send than to make."""
    encoded = list(map(tokenizer.encode, texts))
    return list(map(len, encoded)), array("I", chain.from_iterable(encoded))
