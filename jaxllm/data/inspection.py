"""Looking at documents: what was dropped, by stage and reason, and what a file holds, with examples drawn by chance.

The draw is by a hash of the id, so that the same question has the same answer, and more examples include the fewer.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxllm.data.funnel import draw, excerpt
from jaxllm.data.records import SCHEMA, records
from jaxllm.data.stages import DROPPED_SCHEMA

_QUANTILES = (0, 10, 50, 90, 99, 100)


@dataclass(frozen=True)
class Example:
    """One document, its text cut."""

    id: str
    text: str
    length: int
    """characters of the whole text"""


@dataclass
class Group:
    """Documents of one kind, as far as they were looked at."""

    documents: int = 0
    bytes: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Contents:
    """What documents there are."""

    documents: int
    bytes: int
    sources: dict[str, int]
    """documents of each source"""
    lengths: dict[int, int]
    """percentiles of the texts' bytes"""
    examples: list[Example]
    problems: list[str] = field(default_factory=list)


def dropped_files(out: Path) -> list[Path]:
    """The files of dropped documents below an output directory."""
    return sorted((out / "dropped").glob("*/*.parquet"))


def is_dropped_file(path: Path) -> bool:
    """Whether a Parquet file holds documents with the reason why they were dropped."""
    return path.suffix == ".parquet" and set(DROPPED_SCHEMA.names) <= set(pq.read_schema(path).names)


def reasons_in(
    files: Sequence[Path], *, stage: str = "", containing: str = "", examples: int = 3, length: int = 240
) -> dict[tuple[str, str], Group]:
    """The documents of files of dropped ones, by (stage, reason); of one stage, and reasons with `containing` in them.

    Texts are read for the examples alone. Raises ValueError if `stage` dropped nothing.
    """
    known: set[str] = set()
    groups: dict[tuple[str, str], Group] = {}
    drawn: dict[tuple[str, str], list[tuple[str, Path, int]]] = {}
    for path in files:
        columns = pq.read_table(path, columns=["id", "stage", "reason"]).to_pydict()
        for row, (name, *key) in enumerate(zip(columns["id"], columns["stage"], columns["reason"], strict=True)):
            by, reason = key
            known.add(by)
            if containing in reason and stage in ("", by, path.parent.name):
                groups.setdefault((by, reason), Group()).documents += 1
                drawn.setdefault((by, reason), []).append((draw(name), path, row))
                if len(drawn[by, reason]) > 100 + 2 * examples:
                    drawn[by, reason] = sorted(drawn[by, reason])[:examples]
    if stage and not groups and stage not in known:
        raise ValueError(f"no stage {stage!r} dropped anything; these did: {', '.join(sorted(known)) or 'none'}")
    for key, candidates in drawn.items():
        for _, path, row in sorted(candidates)[:examples]:
            groups[key].examples.append(_example(_row(path, row), length))
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], -item[1].documents, item[0][1])))


def _row(path: Path, row: int) -> dict[str, Any]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return file.read_row_group(group, columns=["id", "text"]).slice(row, 1).to_pylist()[0]
            row -= rows
    raise IndexError(f"{path} has no row {row}")


def _example(row: dict[str, Any], length: int) -> Example:
    return Example(row["id"], excerpt(row["text"], length), len(row["text"]))


def contents_of(path: str, *, examples: int = 3, length: int = 240) -> Contents:
    """What the documents of a file, a folder or a glob are like; of any kind that jaxllm.data.sources reads."""
    problems: list[str] = []
    sizes: list[int] = []
    sources: Counter[str] = Counter()
    best: list[tuple[str, str, Example]] = []
    for batch in _batches(path, problems):
        sources.update(batch.column("source").to_pylist())
        for row in batch.select(["id", "text"]).to_pylist():
            sizes.append(len(row["text"].encode()))
            best.append((draw(row["id"]), row["id"], _example(row, length)))
        best = heapq.nsmallest(examples, best, key=lambda one: one[:2])
    sizes.sort()
    lengths = {q: sizes[round(q / 100 * (len(sizes) - 1))] for q in _QUANTILES} if sizes else {}
    return Contents(len(sizes), sum(sizes), dict(sources), lengths, [example for *_, example in best], problems)


def _batches(path: str, problems: list[str]) -> Iterator[pa.RecordBatch]:
    """Prepared documents keep their ids and sources; others get them as a recipe would give them."""
    file = Path(path)
    if file.suffix == ".parquet" and file.is_file() and set(SCHEMA.names) <= set(pq.read_schema(file).names):
        yield from _prepared([file])
    elif (file / "documents").is_dir():
        yield from _prepared(sorted((file / "documents").glob("*.parquet")))
    else:
        from jaxllm.data.sources import Files

        source = Files(path, name=file.name)
        report = lambda problem: problems.append(str(problem))  # noqa: E731
        yield from records((d for shard in source.shards() for d in shard.read(report)), source.name)


def _prepared(files: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=SCHEMA.names).combine_chunks().to_batches()
