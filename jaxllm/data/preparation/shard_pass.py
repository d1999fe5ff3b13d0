"""One shard through the stages, from the source or from the stage that compared documents to the next such stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxllm.data.documents import Document
from jaxllm.data.funnel import Level, draw
from jaxllm.data.preparation.files import Rows, new_parquet, read_batches
from jaxllm.data.preparation.layout import Layout
from jaxllm.data.preparation.places import AT_ID, placed, with_ids
from jaxllm.data.preparation.verdict import verdict_on
from jaxllm.data.recipe import READ, Recipe, is_cross
from jaxllm.data.records import SCHEMA, records
from jaxllm.data.sources import Problem, refuse
from jaxllm.data.stages import DROPPED_SCHEMA, CrossStage, Outcome, Stage, judged

SAMPLE_SCHEMA = pa.schema([("stage", pa.string()), ("text", pa.large_string())])


@dataclass(frozen=True)
class Shard:
    """What is read together, and becomes one file of documents."""

    number: int
    source: str
    parts: tuple[Any, ...]
    """shards of the source, which may be many and small"""

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Settings:
    """What of a recipe every shard needs to know."""

    stages: tuple[Stage | CrossStage, ...]
    partitions: int
    token_sample: int
    examples: int
    strict: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Settings:
        # Without tokens there is nothing to estimate, so nothing is drawn.
        sample = recipe.token_sample if recipe.tokens else 0
        return cls(recipe.stages, recipe.partitions, sample, recipe.examples, recipe.on_problem == "stop")

    def segments(self) -> list[list[Stage | CrossStage]]:
        """The stages of each pass: those that look at each document alone, up to the next that compares them."""
        segments: list[list[Stage | CrossStage]] = [[]]
        for stage in self.stages:
            if is_cross(stage):
                segments.append([])
            else:
                segments[-1].append(stage)
        return segments

    @property
    def comparisons(self) -> list[CrossStage]:
        return [stage for stage in self.stages if is_cross(stage)]


@dataclass(frozen=True)
class ShardPass:
    """A task: one shard through one segment of the stages."""

    layout: Layout
    settings: Settings
    number: int
    shard: Shard

    @property
    def record(self) -> Path:
        return self.layout.passed(self.number, self.shard.name, "record.json")

    @property
    def _last(self) -> bool:
        return self.number == len(self.settings.comparisons)

    @property
    def _kept(self) -> Path:
        if self._last:
            return self.layout.documents(self.shard.name)
        return self.layout.passed(self.number, self.shard.name, "kept.parquet")

    def __call__(self) -> dict[str, Any]:
        """Writes what is kept and what is dropped; returns the record."""
        layout, shard = self.layout, self.shard.name
        stages = self.settings.segments()[self.number]
        before = self.settings.comparisons[self.number - 1].name if self.number else READ
        run = _Chain(stages, before, self.settings)
        files: dict[Path, Rows] = {}
        with ExitStack() as opened:

            def create(path: Path, schema: pa.Schema, **how: bool) -> Rows:
                files[path] = opened.enter_context(new_parquet(path, schema, **how))
                return files[path]

            kept = create(self._kept, SCHEMA, lasting=self._last)
            for name in run.levels:
                run.dropped[name] = create(layout.dropped(name, shard), DROPPED_SCHEMA, unless_empty=True)
            sample = layout.passed(self.number, shard, "sample.parquet")
            run.sample = create(sample, SAMPLE_SCHEMA, lasting=False)
            for outcome in self._begin(run):
                kept.write(run.through(outcome))
        about = {path: rows.described() for path, rows in files.items() if rows.file is not None}
        return layout.finish(
            self.record,
            {
                "files": layout.described(about),
                "levels": [level.to_json() for level in run.levels.values()],
                "problems": [str(problem) for problem in run.problems],
                "seconds": run.seconds,
            },
        )

    def _begin(self, run: _Chain) -> Iterator[Outcome]:
        """Batches of the shard as they come in, and what of them is gone already."""
        if self.number == 0:
            for batch in run.timed(READ, records(self._read(run), self.shard.source)):
                run.look_for_twins(batch)
                yield judged(batch, READ, [None] * len(batch))
            return
        compared = self.settings.comparisons[self.number - 1]
        verdict = verdict_on(self.layout, self.number - 1, compared.name, self.shard.number)
        previous = self.layout.passed(self.number - 1, self.shard.name, "kept.parquet")
        for batch, places in placed(run.timed(compared.name, read_batches(previous)), self.shard.name):
            outcome = run.time(compared.name, verdict, batch.set_column(AT_ID, SCHEMA.field(AT_ID), places))
            check(compared, batch, outcome)
            yield with_ids(outcome, places, batch.column("id"))

    def _read(self, run: _Chain) -> Iterator[Document]:
        for part in self.shard.parts:
            yield from part.read(refuse if self.settings.strict else run.problems.append)


@dataclass
class _Chain:
    """What happens to the batches of one shard in one pass, and what is counted on the way."""

    stages: Sequence[Stage]
    before: str
    settings: Settings
    dropped: dict[str, Any] = field(default_factory=dict)
    sample: Any = None
    problems: list[Problem] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @cached_property
    def levels(self) -> dict[str, Level]:
        return {name: Level(name) for name in [self.before, *(stage.name for stage in self.stages)]}

    def through(self, outcome: Outcome) -> pa.RecordBatch:
        """What is left of a batch after all stages."""
        drawn = self._drawn(outcome.kept)
        self._take(self.before, outcome, drawn)
        for stage in self.stages:
            batch = outcome.kept
            outcome = self.time(stage.name, stage, batch)
            check(stage, batch, outcome)
            self._take(stage.name, outcome, drawn)
        return outcome.kept

    def _take(self, name: str, outcome: Outcome, drawn: set[str]) -> None:
        self.levels[name].saw(outcome, self.settings.examples)
        self.dropped[name].write(outcome.dropped)
        if drawn:
            kept = outcome.kept.filter(
                pa.array([i in drawn for i in outcome.kept.column("id").to_pylist()], pa.bool_())
            )
            stage = pa.array([name] * len(kept), pa.string())
            self.sample.write(pa.RecordBatch.from_arrays([stage, kept.column("text")], schema=SAMPLE_SCHEMA))

    def _drawn(self, batch: pa.RecordBatch) -> set[str]:
        every = self.settings.token_sample
        return {i for i in batch.column("id").to_pylist() if every and int(draw(i), 16) % every == 0}

    def look_for_twins(self, batch: pa.RecordBatch) -> None:
        ids = batch.column("id").to_pylist()
        before = len(self.seen)
        self.seen.update(ids)
        if twins := len(ids) - (len(self.seen) - before):
            self.levels[READ].count({"documents with the id of an earlier one": twins})

    def time(self, name: str, function: Any, batch: pa.RecordBatch) -> Any:
        began = time.process_time()
        result = function(batch)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        return result

    def timed(self, name: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches, while the time in which they are made is counted."""
        while (batch := self.time(name, lambda _: next(batches, None), None)) is not None:
            yield batch


def check(stage: Stage, batch: pa.RecordBatch, outcome: Outcome) -> None:
    """Raises ValueError if a stage lost or doubled documents; it may cut one into pieces, "ID#1", "ID#2" and so on."""
    found = len(outcome.kept) + len(outcome.dropped)
    if found != len(batch):
        known = batch.column("id").to_pylist()
        different = set(known)
        ids = outcome.kept.column("id").to_pylist()
        wholes = [name for name in ids if name in different]
        pieces = {name.rpartition("#")[0] for name in ids if name not in different}
        if sorted([*wholes, *pieces, *outcome.dropped.column("id").to_pylist()]) != sorted(known):
            raise ValueError(f"stage {stage.name}: {len(batch):,} documents went in, {found:,} came out")
    for part, schema in ((outcome.kept, SCHEMA), (outcome.dropped, DROPPED_SCHEMA)):
        if part.schema != schema:
            raise ValueError(f"stage {stage.name}: gave columns {part.schema.names}, expected {schema.names}")
