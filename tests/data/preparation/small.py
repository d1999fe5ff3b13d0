"""A small recipe over a few files, with a stage of every kind, and what must come out of it."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jaxllm.data.documents import Document
from jaxllm.data.recipe import Recipe
from jaxllm.data.records import texts_of
from jaxllm.data.stages import judged, rewritten
from jaxllm.tokenizers.config import TokenizerConfig


@dataclass(frozen=True)
class Lines:
    """A source with a shard for each file of a folder, and a document for each line; "!" can't be read."""

    folder: str
    name: str = "lines"

    def shards(self):
        return [LinesShard(str(path), path.name) for path in sorted(Path(self.folder).glob("*.txt"))]


@dataclass(frozen=True)
class LinesShard:
    path: str
    name: str

    @property
    def num_bytes(self):
        return Path(self.path).stat().st_size

    @property
    def version(self):
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def read(self, report):
        for number, line in enumerate(Path(self.path).read_text().splitlines()):
            if line == "!":
                report(f"{self.path}, line {number}: is broken")
            else:
                yield Document(f"{self.name}:{number}", line, {"line": number})


@dataclass(frozen=True)
class Short:
    """Drops documents of few words."""

    words: int = 3
    """the fewest"""
    name: str = "short texts"

    def __call__(self, batch):
        few = f"fewer than {self.words} words"
        return judged(batch, self.name, [few if len(t.split()) < self.words else None for t in texts_of(batch)])


@dataclass(frozen=True)
class Upper:
    name: str = "upper"

    def __call__(self, batch):
        texts = texts_of(batch)
        return rewritten(batch, self.name, [t.upper() for t in texts], {"characters": sum(map(len, texts))})


@dataclass(frozen=True)
class SameText:
    """Drops all but the first of equal texts."""

    name: str = "same"
    reason: str = "seen before"

    def keys(self, batch):
        return pa.table({"key": pa.array(map(key, texts_of(batch)), pa.uint64()), "id": batch.column("id")})

    def match(self, rows):
        seen, gone = set(), []
        for one, name in zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True):
            if one in seen:
                gone.append(name)
            seen.add(one)
        return pa.table({"id": pa.array(gone, pa.string())})

    def resolve(self, matches):
        return matches.append_column("reason", pa.array([self.reason] * len(matches), pa.string()))


@dataclass(frozen=True)
class Deadly:
    """Kills the process that comes to a document with this text, once for each folder of marks."""

    text: str
    marks: str
    name: str = "deadly"
    wait: float = 0.0

    def __call__(self, batch):
        if self.text in texts_of(batch):
            mark = Path(self.marks) / self.text
            if not mark.exists():
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()
                time.sleep(self.wait)
                os.kill(os.getpid(), signal.SIGKILL)
        return judged(batch, self.name, [None] * len(batch))


def key(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def write_texts(folder: Path, files: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in range(files):
        lines = [f"document {number} says {'so ' * (i % 4 + 1)}{i % 5}" for i in range(12)]
        lines += ["one two", f"shard {number} begins here", "!" if number == 1 else "in every file there is this"]
        (folder / f"{number}.txt").write_text("\n".join(lines))


def small_recipe(folder: Path, *extra, **changes) -> Recipe:
    values = {
        "name": "small",
        "sources": (Lines(str(folder)),),
        "stages": (Short(), *extra, SameText(), Upper()),
        "tokenizer": TokenizerConfig(kind="byte"),
        "shard_bytes": 1,
        "partitions": 2,
        "token_sample": 2,
    }
    return Recipe(**(values | changes))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the timings."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timings.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
