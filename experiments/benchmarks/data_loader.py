"""How fast batches are made: packing plans, tokens per second from the store to the batch, and what a step consumes.

    python experiments/benchmarks/data_loader.py [--tokens 20000000] [--documents 100000] [--seconds 2] [--steps 3]

The store is synthetic: random ids, document lengths log-normal with a median of 400 tokens (web text is of that kind).
No step consumes the batches while they are measured, so what is printed is the most that the loader can give here. In
the same run: the training step of the quickstart's CPU model, which says how many times over it could be fed; grain's
own pipeline (ArrayRecord files, shuffled, packed by its first-fit transformation); and Hugging Face datasets, where it
is installed, with rows that were packed beforehand.

Seconds are of processor time, of all threads together, so that figures do not depend on what else a machine does; a
loader that has a core for itself is as quick as they say.
"""

import argparse
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxllm.data import DataConfig, Document, TokenStore, TrainLoader, plan_packing, write_token_store
from jaxllm.data.array_record import ArrayRecordDocuments, write_array_record
from jaxllm.data.config import SourceConfig
from jaxllm.data.token_store import Layout

VOCAB_SIZE = 4096
# What a position is in a batch: tokens, targets, weights, segment ids and positions, 4 bytes each.
BYTES_PER_POSITION = 20


class SyntheticTokenizer:
    """A document's text is its length; its ids are random, small ones more often, as in text."""

    vocab_size = VOCAB_SIZE
    end_of_text = VOCAB_SIZE - 1

    def __init__(self):
        self._random = np.random.default_rng(0)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [(self._random.random(int(text)) ** 4 * (VOCAB_SIZE - 1)).astype(np.int64) for text in texts]

    def fingerprint(self) -> str:
        return "synthetic"


def document_lengths(total: int) -> np.ndarray:
    """Log-normal lengths that sum to about `total`; the mean is 400 * exp(1.1**2 / 2), about 730."""
    lengths = np.random.default_rng(1).lognormal(np.log(400), 1.1, 2 * total // 730 + 10).astype(int) + 1
    return lengths[: np.searchsorted(np.cumsum(lengths), total) + 1]


def make_store(directory: Path, lengths: np.ndarray, compression: str) -> TokenStore:
    documents: Iterator[Document] = (Document(str(i), str(length)) for i, length in enumerate(lengths))
    layout = Layout(compression=compression)
    return write_token_store(directory, documents, SyntheticTokenizer(), source="synthetic", layout=layout)


def plan_seconds(lengths: np.ndarray, row_length: int, packing: str) -> tuple[float, float]:
    """Median seconds of three plans, and the utilization."""
    seconds = []
    for seed in range(3):
        begin = time.process_time()
        plan = plan_packing(lengths, row_length, packing=packing, seed=seed)
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds), plan.utilization


def rate_of(batches: Iterator, positions: int, seconds: float) -> float:
    """Positions per processor second of an iterator whose batches hold so many, after five batches to warm up."""
    for _ in itertools.islice(batches, 5):
        pass
    taken, begin = 0, time.process_time()
    while time.process_time() - begin < seconds:
        next(batches)
        taken += 1
    return taken * positions / (time.process_time() - begin)


def loader_rate(stores, config: DataConfig, row_length: int, batch_size: int, seconds: float) -> float:
    with TrainLoader(stores, config, row_length=row_length, batch_size=batch_size) as loader:
        return rate_of(loader, batch_size * row_length, seconds)


def grain_rate(path: Path, row_length: int, batch_size: int, seconds: float) -> tuple[float, float]:
    """(positions per second, part of them that is no padding) of grain's own shuffle, first-fit packing and batches."""
    import grain

    def pairs(record):
        ids = np.concatenate([[VOCAB_SIZE - 1], record[1], [VOCAB_SIZE - 1]]).astype(np.int32)[: row_length + 1]
        return {"tokens": ids[:-1], "targets": ids[1:]}

    rows = grain.MapDataset.source(ArrayRecordDocuments(path)).shuffle(seed=0).repeat().map(pairs)
    rows = rows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=64))
    packed = grain.experimental.FirstFitPackIterDataset(
        rows, length_struct={"tokens": row_length, "targets": row_length}, num_packing_bins=batch_size
    )
    batches = iter(packed.batch(batch_size))
    sample = next(batches)
    full = float((sample["tokens_segment_ids"] > 0).mean())
    return rate_of(batches, batch_size * row_length, seconds), full


def datasets_rate(store: TokenStore, row_length: int, batch_size: int, seconds: float) -> float:
    """Rows that lie packed end to end in Arrow, shuffled: no documents, no packing, only inputs."""
    import datasets

    ids = np.concatenate([store.tokens_of(i) for i in range(store.documents)])
    rows = ids[: len(ids) // row_length * row_length].reshape(-1, row_length).astype(np.int32)
    table = datasets.Dataset.from_dict({"tokens": rows}).with_format("numpy")

    def endless() -> Iterator:
        for epoch in itertools.count():
            yield from table.shuffle(seed=epoch).iter(batch_size=batch_size, drop_last_batch=True)

    return rate_of(endless(), batch_size * row_length, seconds)


def step_rate(steps: int) -> float:
    """Tokens per second of the training step of the quickstart's CPU model, on one device."""
    import jax

    from jaxllm.models import decoder_spec
    from jaxllm.parallel.mesh import MeshConfig
    from jaxllm.parallel.sharding import make_layout
    from jaxllm.pipeline.pretrain import with_vocabulary
    from jaxllm.pipeline.quickstart import quickstart_experiment
    from jaxllm.training.job import pretraining_objective
    from jaxllm.training.program import step_program

    experiment = with_vocabulary(quickstart_experiment("cpu"), SyntheticTokenizer())
    model, training = experiment.model, experiment.training
    layout = make_layout(MeshConfig(data=1, fsdp=1), jax.devices()[:1])
    program = step_program(experiment, decoder_spec(model), pretraining_objective(model, training), layout)
    step, state = program.lower().compile(), program.initial(0)
    shape = (training.batch_size, model.context_length)
    row = {"tokens": 1, "targets": 1, "weights": 1.0, "segment_ids": 1, "positions": 0}
    batch = {name: np.full(shape, row[name], kind.dtype) for name, kind in program.batch.items()}
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    begin = time.process_time()
    for _ in range(steps):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    return steps * shape[0] * shape[1] / (time.process_time() - begin)


def print_plans(documents: int) -> None:
    lengths = document_lengths(documents * 730 + 10**6)[:documents]
    print(f"packing plan for {len(lengths):,} documents, {lengths.sum():,} tokens")
    for row_length in (1024, 8192):
        for packing in ("best_fit", "first_fit", "concat"):
            spent, utilization = plan_seconds(lengths, row_length, packing)
            window = 10_000
            parts = [lengths[at : at + window] for at in range(0, len(lengths), window)]
            plans = [plan_packing(part, row_length, packing=packing, seed=0) for part in parts]
            apart = sum(plan.num_pairs for plan in plans) / sum(plan.num_rows for plan in plans) / row_length
            speed = len(lengths) / spent / 1e6
            print(
                f"  {packing:9}  rows of {row_length:5}  {spent:6.3f} s  {speed:5.2f} M a second  "
                f"{utilization:.2%} full; in windows of {window:,}: {apart:.2%}"
            )


def print_rates(scratch: Path, tokens: int, batch_size: int, seconds: float, consumed: float) -> None:
    def tell(what: str, rate: float) -> None:
        written, times = rate * BYTES_PER_POSITION / 1e6, rate / consumed
        print(f"  {what:44}  {rate / 1e6:7.2f} M tokens/s  {written:6.0f} MB/s of batches  {times:6.0f} x the step")

    def measure(what: str, stores, config: DataConfig, row_length: int = 1024) -> None:
        tell(f"{what}, rows of {row_length}", loader_rate(stores, config, row_length, batch_size, seconds))

    sizes = document_lengths(tokens)
    stores = {kind: make_store(scratch / kind, sizes, kind) for kind in ("none", "zstd")}
    plain, on_disk = stores["none"], {}
    for kind, store in stores.items():
        (shard,) = store.manifest.shards.values()
        on_disk[kind] = sum(size for name, (size, _) in shard.files.items() if name.startswith("tokens")) / 1e6
    print(
        f"loader on {plain.num_tokens:,} tokens in {plain.documents:,} documents ({on_disk['none']:.0f} MB, "
        f"{on_disk['zstd']:.0f} MB compressed), batches of {batch_size} rows"
    )
    for row_length in (256, 1024, 8192):
        for packing in ("best_fit", "first_fit", "concat"):
            measure(packing, plain, DataConfig(packing=packing), row_length)
    measure("zstd", stores["zstd"], DataConfig())
    measure("windows of 10,000 documents", plain, DataConfig(packing_window=10_000))
    for threads in (0, 2):
        measure(f"{threads} threads", plain, DataConfig(read_threads=threads))
    mixed = DataConfig(sources=tuple(SourceConfig(name, "x", weight=1) for name in "abc"))
    measure("three sources", dict.fromkeys("abc", plain), mixed)

    write_array_record(scratch / "x.arrayrecord", plain)
    rate, full = grain_rate(scratch / "x.arrayrecord", 1024, batch_size, seconds)
    tell(f"grain alone, first fit ({full:.0%} full, cut)", rate)
    if importlib.util.find_spec("datasets"):
        tell("Hugging Face datasets, packed before", datasets_rate(plain, 1024, batch_size, seconds))
    else:
        print("  Hugging Face datasets is not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--documents", type=int, default=100_000, help="documents of the packing plans")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2, help="measured time per line")
    parser.add_argument("--steps", type=int, default=3, help="training steps that are measured; 0 for none")
    arguments = parser.parse_args()

    print_plans(arguments.documents)
    consumed = step_rate(arguments.steps) if arguments.steps else float("nan")
    print(f"the training step of the quickstart's CPU model consumes {consumed:,.0f} tokens/s")
    with tempfile.TemporaryDirectory() as scratch:
        print_rates(Path(scratch), arguments.tokens, arguments.batch_size, arguments.seconds, consumed)


if __name__ == "__main__":
    main()
