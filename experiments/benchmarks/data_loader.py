"""How fast batches are made: packing plans for many documents, and tokens per second from the store to the batch.

    python experiments/benchmarks/data_loader.py [--tokens 50000000] [--batch-size 32] [--seconds 5]

The store is synthetic: random ids, document lengths log-normal with a median of 400 tokens (web text is of that
kind). No step consumes the batches, so what is printed is the most that the loader can give on this machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxllm.data import DataConfig, Document, TokenStore, TrainLoader, plan_packing, write_token_store

VOCAB_SIZE = 4096


class SyntheticTokenizer:
    """A document's text is its length; its ids are random."""

    vocab_size = VOCAB_SIZE
    end_of_text = VOCAB_SIZE - 1

    def __init__(self):
        self._random = np.random.default_rng(0)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self._random.integers(0, VOCAB_SIZE - 1, int(text)) for text in texts]

    def fingerprint(self) -> str:
        return "synthetic"


def document_lengths(total: int) -> np.ndarray:
    """Log-normal lengths that sum to about `total`; the mean is 400 * exp(1.1**2 / 2), about 730."""
    lengths = np.random.default_rng(1).lognormal(np.log(400), 1.1, 2 * total // 730 + 10).astype(int) + 1
    return lengths[: np.searchsorted(np.cumsum(lengths), total) + 1]


def make_store(directory: Path, lengths: np.ndarray) -> TokenStore:
    documents: Iterator[Document] = (Document(str(i), str(length)) for i, length in enumerate(lengths))
    return write_token_store(directory, documents, SyntheticTokenizer(), source="synthetic")


def plan_seconds(lengths: np.ndarray, row_length: int, packing: str) -> tuple[float, float]:
    """Median seconds of five plans, and the utilization."""
    seconds = []
    for seed in range(5):
        begin = time.perf_counter()
        plan = plan_packing(lengths, row_length, packing=packing, seed=seed)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), plan.utilization


def tokens_per_second(store: TokenStore, config: DataConfig, row_length: int, batch_size: int, seconds: float) -> float:
    """Positions per second out of the loader, after ten batches to warm up."""
    with TrainLoader(store, config, row_length=row_length, batch_size=batch_size) as loader:
        for _ in range(10):
            next(loader)
        batches, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            next(loader)
            batches += 1
        return batches * batch_size * row_length / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=50_000_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5, help="measured time per line")
    arguments = parser.parse_args()

    lengths = document_lengths(100_000 * 730)[:100_000]
    print(f"packing plan for {len(lengths):,} documents, {lengths.sum():,} tokens")
    for row_length in (1024, 8192):
        for packing in ("best_fit", "concat"):
            seconds, utilization = plan_seconds(lengths, row_length, packing)
            print(f"  {packing:8}  rows of {row_length:5}  {seconds:6.3f} s  {utilization:.2%} full")

    with tempfile.TemporaryDirectory() as scratch:
        store = make_store(Path(scratch) / "store", document_lengths(arguments.tokens))
        size = f"{store.num_tokens:,} tokens in {store.documents:,} documents"
        print(f"loader on {size}, batches of {arguments.batch_size} rows")
        for row_length in (256, 1024, 8192):
            for packing in ("best_fit", "concat"):
                for threads in (0, 1, 2):
                    config = DataConfig(packing=packing, read_threads=threads)
                    rate = tokens_per_second(store, config, row_length, arguments.batch_size, arguments.seconds)
                    print(f"  {packing:8}  rows of {row_length:5}  {threads} threads  {rate / 1e6:6.1f} M tokens/s")


if __name__ == "__main__":
    main()
