"""How often each piece occurs in a stream of texts: all that training a vocabulary needs to know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from jaxllm.tokenizers.worker_processes import batches, map_in_order

# Large batches, since each has the frequent pieces, and adding up its counts takes time for each distinct one.
_BATCH_CHARACTERS = 1 << 22


def count_pieces(texts: Iterable[str], cut: Callable[[str], Iterable[str]], processes: int = 1) -> Counter[str]:
    """How often each piece occurs in the texts, the same for any order of them and any number of processes.

    The texts are read once, and few of them are in memory at a time: it grows with the distinct pieces. With several
    processes cut must be picklable. Raises ValueError unless there is at least one process.
    """
    counts: Counter[str] = Counter()
    if processes == 1:
        for text in texts:
            counts.update(cut(text))
        return counts
    for part in map_in_order(partial(_count, cut=cut), batches(texts, _BATCH_CHARACTERS), processes):
        counts.update(part)
    return counts


def _count(texts: list[str], cut: Callable[[str], Iterable[str]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(cut(text))
    return dict(counts)
