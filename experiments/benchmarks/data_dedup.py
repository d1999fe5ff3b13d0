"""MinHash deduplication end to end, jaxllm beside datatrove, on text whose duplicates are known.

    python experiments/benchmarks/data_dedup.py [--megabytes 200] [--peer-megabytes 20] [--workers 1] [--extra FOLDER]

Both read the same JSON lines and write those that stay, with word 5-grams, 14 bands of 8 and 64-bit hashes; jaxllm also
checks the true similarity of candidates (0.7), which datatrove does not. Both run on the first --peer-megabytes, of
which the ratio is taken; jaxllm then on all. Rates are per second of processor time, of all processes. --extra: a
folder with more English (c4_demo.jsonl and others).

recall: of the copies that should go (all but one of each cluster), how many went. precision: of what went, how much
should have: in a cluster all of whose members went, one too many did.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import runpy
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jaxllm.data.dedup import MinHash
from jaxllm.data.records import make_batch

# The folder of this script comes first in the path, and a script in it has the name of a library that datatrove needs.
HERE = Path(__file__).parent.resolve()
sys.path = [folder for folder in sys.path if Path(folder).resolve() != HERE]
make_corpus = runpy.run_path(str(HERE / "dedup_corpus.py"))["make_corpus"]

PARTITIONS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=200.0)
    parser.add_argument("--peer-megabytes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--extra", type=Path)
    parser.add_argument("--profile", action="store_true", help="print seconds by pass")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        part, whole = folder / "part", folder / "whole"
        make_corpus(part, min(arguments.peer_megabytes, arguments.megabytes), arguments.extra)
        print(
            f"{'':24}{'documents':>10}{'MB':>8}{'wall':>9}{'seconds':>9}{'documents/s':>13}{'MB/s':>8}{'recall':>8}{'precision':>10}"
        )
        ours = measure("jaxllm", part, folder / "a", partial(run_jaxllm, workers=arguments.workers))
        peer = measure("datatrove", part, folder / "b", partial(run_datatrove, workers=arguments.workers))
        if peer:
            print(f"jaxllm takes {ours / peer:.3f} of datatrove's time: {peer / ours:.1f} times as fast")
        if arguments.megabytes > arguments.peer_megabytes:
            make_corpus(whole, arguments.megabytes, arguments.extra)
            measure("jaxllm, all", whole, folder / "c", partial(run_jaxllm, workers=arguments.workers))
        if arguments.profile:
            print({name: round(seconds, 2) for name, seconds in SECONDS.items()})


SECONDS: Counter[str] = Counter()


def measure(name: str, corpus: Path, out: Path, run: Callable[[Path, Path], None]) -> float | None:
    """Runs, prints a row, returns the seconds; None if the library is not installed."""
    begin, before = time.perf_counter(), processor_seconds()
    try:
        run(corpus, out)
    except ModuleNotFoundError as error:
        print(f"{name} is left out: {error}")
        return None
    wall, seconds = time.perf_counter() - begin, processor_seconds() - before
    rows, kept = list(read(corpus)), list(read(out / "kept"))
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    recall, precision = recall_and_precision(rows, kept)
    print(
        f"{name:24}{len(rows):10}{megabytes:8.1f}{wall:9.1f}{seconds:9.1f}{len(rows) / seconds:13.0f}"
        f"{megabytes / seconds:8.2f}{recall:8.4f}{precision:10.4f}"
    )
    return seconds


def processor_seconds() -> float:
    """Of this process and its children that have ended: on a machine that others use too, the clock is no measure."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def read(folder: Path) -> Iterator[dict]:
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def recall_and_precision(rows: list[dict], kept: list[dict]) -> tuple[float, float]:
    size, left = (Counter(row["cluster"] for row in part) for part in (rows, kept))
    alone = size.pop(-1, 0) - left.pop(-1, 0)
    gone = sum(size.values()) - sum(left.values())
    right = sum(min(members - left[cluster], members - 1) for cluster, members in size.items())
    return right / max(sum(size.values()) - len(size), 1), right / max(gone + alone, 1)


# jaxllm: a stage in passes over files, out of core


def run_jaxllm(corpus: Path, out: Path, workers: int) -> None:
    (out / "kept").mkdir(parents=True)
    shards = sorted(corpus.glob("*.jsonl"))
    each = map_in(workers)
    timed("read", lambda: list(each(partial(to_arrow, out=out), shards)))
    texts = sorted(out.glob("*.text"))
    stage = MinHash(bands=14, rows=8, threshold=0.7)
    for turn in ("first", "second"):
        timed(f"{turn} keys", lambda: list(each(partial(send, stage=stage, out=out), texts)))  # noqa: B023
        found = timed(f"{turn} match", lambda: list(each(partial(receive, stage=stage, out=out), range(PARTITIONS))))  # noqa: B023
        stage, table = timed(f"{turn} resolve", lambda: resolved(stage, pa.concat_tables(found)))  # noqa: B023
    timed("write", lambda: list(each(partial(write_kept, found=table, out=out), texts)))


def map_in(workers: int) -> Callable[[Callable, Iterable], Iterable]:
    if workers == 1:
        return map
    return ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver")).map


def timed(name: str, work: Callable):
    begin = processor_seconds()
    result = work()
    SECONDS[name] += processor_seconds() - begin
    return result


def resolved(stage, matches: pa.Table):
    found = stage.resolve(matches)
    return (stage, found) if isinstance(found, pa.Table) else (found, None)


def to_arrow(shard: Path, out: Path) -> None:
    with open(shard, "rb") as file, pa.OSFile(str(out / f"{shard.stem}.text"), "wb") as sink:
        rows = [json.loads(line) for line in file]
        writer = None
        for first in range(0, len(rows), 1000):
            some = rows[first : first + 1000]
            names = [f"{shard.stem}:{first + row + 1}" for row in range(len(some))]
            metadata = [{"cluster": row["cluster"]} for row in some]
            batch = make_batch(names, ["made"] * len(some), [row["text"] for row in some], metadata)
            writer = writer or pa.ipc.new_file(sink, batch.schema)
            writer.write_batch(batch)
        writer.close()


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            yield file.get_batch(number)


def send(path: Path, stage, out: Path) -> None:
    """Keys of a shard's documents, to one file a partition."""
    rows = pa.concat_tables([stage.keys(batch) for batch in batches(path)])
    partition = (rows["key"].to_numpy() >> np.uint64(7)) % np.uint64(PARTITIONS)
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(PARTITIONS + 1))
    for number in range(PARTITIONS):
        part = rows.take(pa.array(order[bounds[number] : bounds[number + 1]]))
        with (
            pa.OSFile(str(out / f"{path.stem}.{number}.rows"), "wb") as sink,
            pa.ipc.new_file(sink, part.schema) as writer,
        ):
            writer.write_table(part)


def receive(number: int, stage, out: Path) -> pa.Table:
    parts = []
    for path in sorted(out.glob(f"*.{number}.rows")):
        with pa.OSFile(str(path), "rb") as source:
            parts.append(pa.ipc.open_file(source).read_all())
        path.unlink()
    return stage.match(pa.concat_tables(parts))


def write_kept(path: Path, found: pa.Table, out: Path) -> None:
    with open(out / "kept" / f"{path.stem}.jsonl", "w", encoding="utf-8") as file:
        for batch in batches(path):
            for row in batch.filter(pc.invert(pc.is_in(batch.column("id"), found["id"]))).to_pylist():
                file.write(json.dumps({"text": row["text"], **json.loads(row["metadata"])}, ensure_ascii=False) + "\n")


# datatrove: its four stages, as its own example has them


def run_datatrove(corpus: Path, out: Path, workers: int) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from loguru import logger

    logger.disable("datatrove")
    logging.disable(logging.WARNING)
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    signatures, buckets, gone = (str(out / name) for name in ("signatures", "buckets", "gone"))

    def run(pipeline: list, tasks: int) -> None:
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=workers, logging_dir=str(out / "logs" / str(time.time()))
        ).run()

    reader = JsonlReader(str(corpus), glob_pattern="*.jsonl")
    writer = JsonlWriter(str(out / "kept"), compression=None, output_filename="${rank}.jsonl", expand_metadata=True)
    shards = len(list(corpus.glob("*.jsonl")))
    run([reader, MinhashDedupSignature(signatures, config)], shards)
    run([MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets)
    run([MinhashDedupCluster(buckets, gone, config=config)], 1)
    run([reader, MinhashDedupFilter(gone), writer], shards)
    shutil.rmtree(out / "logs")


if __name__ == "__main__":
    main()
