"""What a stage that compares documents has decided, as a stage that looks at each document alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jaxllm.data.atomic import new_file
from jaxllm.data.engines.shipping import shipped
from jaxllm.data.preparation.exchange import receive, send
from jaxllm.data.preparation.layout import Layout
from jaxllm.data.preparation.places import rows_of
from jaxllm.data.stages import Outcome, Stage, judged


@dataclass(frozen=True)
class Drops:
    """Drops documents by their places."""

    name: str
    reasons: dict[str, str]

    def __call__(self, batch: pa.RecordBatch) -> Outcome:
        return judged(batch, self.name, [self.reasons.get(place) for place in batch.column("id").to_pylist()])


def write_verdict(layout: Layout, number: int, decided: pa.Table | Stage, shards: int) -> tuple[Path, int]:
    """Keeps what comparison `number` decided: documents to drop (`id`, `reason`), or a stage; (file, its bytes)."""
    if not isinstance(decided, pa.Table):
        return write_stage(layout.compared(number, "stage.pickle"), decided)
    path = layout.compared(number, "drops.arrow")
    table = pa.table(
        {"place": decided.column("id").cast(pa.string()), "reason": decided.column("reason").cast(pa.string())}
    )
    return path, send(path, table, rows_of(table.column("place"))[0], shards)


def verdict_on(layout: Layout, number: int, name: str, shard: int) -> Stage:
    """What comparison `number` decided on the documents of one shard."""
    if (path := layout.compared(number, "stage.pickle")).exists():
        return read_stage(path)
    drops = receive([layout.compared(number, "drops.arrow")], shard)
    # Of a document that is dropped for two reasons the first counts.
    reasons: dict[str, str] = {}
    for place, reason in zip(drops.column("place").to_pylist(), drops.column("reason").to_pylist(), strict=True):
        reasons.setdefault(place, reason)
    return Drops(name, reasons)


def write_stage(path: Path, stage: object) -> tuple[Path, int]:
    with new_file(path, lasting=False) as file:
        file.write(shipped(stage))
    return path, file.size


def read_stage(path: Path):
    return pickle.loads(path.read_bytes())
