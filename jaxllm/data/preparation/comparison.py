"""A stage that compares documents: keys of every shard, matches in every partition, and one decision from all matches.

What `resolve` gives is a table of documents to drop, or a stage that changes each document by itself, or another stage
that compares: then there is another round, with the same documents.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxllm.data.atomic import new_file
from jaxllm.data.preparation.exchange import receive, receivers_of, send
from jaxllm.data.preparation.files import read_batches
from jaxllm.data.preparation.layout import Layout
from jaxllm.data.preparation.places import AT_ID, placed
from jaxllm.data.preparation.shard_pass import Settings
from jaxllm.data.preparation.verdict import read_stage, write_stage, write_verdict
from jaxllm.data.recipe import is_cross
from jaxllm.data.records import SCHEMA
from jaxllm.data.stages import CrossStage


@dataclass(frozen=True)
class Round:
    """One round of one comparison."""

    layout: Layout
    settings: Settings
    number: int
    """the comparison follows the pass of this number"""
    again: int = 0
    """rounds before this one"""

    def path(self, what: str) -> Path:
        return self.layout.compared(self.number, f"round-{self.again}/{what}")

    @property
    def stage(self) -> CrossStage:
        return read_stage(self.path("stage.pickle")) if self.again else self.settings.comparisons[self.number]

    @property
    def name(self) -> str:
        return self.settings.comparisons[self.number].name

    def finish(self, record: Path, path: Path, size: int, began: float, **more: Any) -> dict[str, Any]:
        files = self.layout.described({path: {"bytes": size}})
        seconds = {self.name: time.process_time() - began}
        return self.layout.finish(record, {"files": files, "seconds": seconds, **more})


@dataclass(frozen=True)
class Keys:
    """A task: the keys of one shard, sorted by partition."""

    round: Round
    shard: str

    @property
    def record(self) -> Path:
        return self.round.path(f"{self.shard}.keys.json")

    def __call__(self) -> dict[str, Any]:
        began = time.process_time()
        stage, tables = self.round.stage, []
        kept = self.round.layout.passed(self.round.number, self.shard, "kept.parquet")
        for batch, places in placed(read_batches(kept), self.shard):
            tables.append(stage.keys(batch.set_column(AT_ID, SCHEMA.field(AT_ID), places)))
        rows = pa.concat_tables(tables or [stage.keys(pa.RecordBatch.from_pylist([], SCHEMA))])
        path, parts = self.round.path(f"{self.shard}.keys.arrow"), self.round.settings.partitions
        size = send(path, rows, receivers_of(rows.column("key"), parts), parts)
        return self.round.finish(self.record, path, size, began, exchanged=size)


@dataclass(frozen=True)
class Match:
    """A task: the rows of one partition, from all shards, matched."""

    round: Round
    partition: int
    shards: tuple[str, ...]

    @property
    def record(self) -> Path:
        return self.round.path(f"{self.partition:05d}.matches.json")

    def __call__(self) -> dict[str, Any]:
        began = time.process_time()
        rows = receive([self.round.path(f"{shard}.keys.arrow") for shard in self.shards], self.partition)
        matches = self.round.stage.match(rows)
        path = self.round.path(f"{self.partition:05d}.matches.arrow")
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with new_file(path, lasting=False) as file, pa.ipc.new_file(file, matches.schema, options=options) as writer:
            writer.write_table(matches)
        return self.round.finish(self.record, path, file.size, began, exchanged=file.size)


@dataclass(frozen=True)
class Resolve:
    """A task: what follows from all matches."""

    round: Round
    shards: int

    @property
    def record(self) -> Path:
        return self.round.path("resolved.json")

    def __call__(self) -> dict[str, Any]:
        began = time.process_time()
        parts = []
        for partition in range(self.round.settings.partitions):
            with pa.memory_map(str(self.round.path(f"{partition:05d}.matches.arrow"))) as source:
                parts.append(pa.ipc.open_file(source).read_all())
        decided = self.round.stage.resolve(pa.concat_tables(parts))
        again = not isinstance(decided, pa.Table) and is_cross(decided)
        if again:
            following = Round(self.round.layout, self.round.settings, self.round.number, self.round.again + 1)
            path, size = write_stage(following.path("stage.pickle"), decided)
        else:
            path, size = write_verdict(self.round.layout, self.round.number, decided, self.shards)
        return self.round.finish(self.record, path, size, began, again=again)
