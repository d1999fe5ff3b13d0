"""Encoding many texts in several processes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from functools import partial
from itertools import accumulate, chain

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
        self._workers = Workers(partial(_encode, tokenizer), processes)

    def __enter__(self) -> BulkEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def __call__(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, as tokenizer.encode gives them; raises what it raises, and RuntimeError if a process
        ends before its time.

        Texts are shared out by length, and one text is never divided.
        """
        return list(chain.from_iterable(self._workers.map(batches(texts))))


def encode_batch(tokenizer: Tokenizer, texts: Iterable[str], processes: int) -> list[list[int]]:
    """The ids of each text, as a BulkEncoder of its own gives them.

    Another process takes some tenths of a second to start and learns the pieces anew, so this pays from some megabytes
    on. This process is at work meanwhile.
    """
    with BulkEncoder(tokenizer, processes) as encode:
        return encode(texts)


def _encode(tokenizer: Tokenizer, texts: list[str]) -> _Ids:
    return _Ids(tokenizer.encode_batch(texts))


class _Ids(list[list[int]]):
    """The ids of texts. They go to another process as one array: lists would take longer to send than to make."""

    def __reduce__(self):
        return _unpack, (list(map(len, self)), array("I", chain.from_iterable(self)))


def _unpack(lengths: list[int], packed: array) -> list[list[int]]:
    ends = list(accumulate(lengths))
    return [packed[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
