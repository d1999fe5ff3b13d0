"""Tokens of what is left, shard by shard, and an estimate of how many there were after each stage."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.data.documents import Document
from jaxllm.data.funnel import Level
from jaxllm.data.preparation.files import read_batches
from jaxllm.data.preparation.layout import Layout
from jaxllm.data.recipe import Recipe
from jaxllm.data.records import texts_of
from jaxllm.data.token_store import write_shard

if TYPE_CHECKING:
    from jaxllm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Tokenize:
    """A task: the shard of the token store with one shard's documents, and the tokens of its sample."""

    layout: Layout
    tokenizer: str
    """where it lies"""
    fingerprint: str
    shard: str
    passes: int

    @property
    def record(self) -> Path:
        return self.layout.work / "tokens" / f"{self.shard}.json"

    def __call__(self) -> dict[str, Any]:
        began = time.process_time()
        tokenizer = _loaded(self.tokenizer, self.fingerprint)
        documents = stored_documents(self.layout.documents(self.shard))
        directory = self.layout.root / "tokens" / self.shard
        written = write_shard(directory, documents, tokenizer, source=self.layout.documents(self.shard).name)
        seconds = time.process_time() - began
        sizes = {path: {"bytes": path.stat().st_size} for path in directory.iterdir()}
        values = {"files": self.layout.described(sizes), "tokens": written.tokens, "sample": self._sample(tokenizer)}
        return self.layout.finish(self.record, values | {"seconds": {"tokens": seconds}})

    def _sample(self, tokenizer: Tokenizer) -> dict[str, list[int]]:
        """{stage: [bytes, tokens]} of the documents that were drawn."""
        found: dict[str, list[int]] = {}
        known: dict[str, int] = {}
        for number in range(self.passes):
            for batch in read_batches(self.layout.passed(number, self.shard, "sample.parquet")):
                texts = texts_of(batch)
                # Most stages leave most texts as they are.
                new = list(dict.fromkeys(text for text in texts if text not in known))
                known |= {text: len(ids) for text, ids in zip(new, tokenizer.encode_batch(new), strict=True)}
                for stage, text in zip(batch.column("stage").to_pylist(), texts, strict=True):
                    sums = found.setdefault(stage, [0, 0])
                    sums[0] += len(text.encode())
                    sums[1] += known[text]
        return found


@lru_cache(maxsize=1)
def _loaded(path: str, fingerprint: str) -> Tokenizer:
    from jaxllm.tokenizers import load

    tokenizer = load(path)
    if tokenizer.fingerprint() != fingerprint:
        raise ValueError(f"{path}: is not the tokenizer that this run began with; remove the output to begin again")
    return tokenizer


def stored_documents(path: Path) -> Iterator[Document]:
    """The documents of a file of prepared documents, each under its id."""
    for batch in read_batches(path):
        for name, text, metadata in zip(
            batch.column("id").to_pylist(), texts_of(batch), batch.column("metadata").to_pylist(), strict=True
        ):
            yield Document(name, text, json.loads(metadata))


def find_tokenizer(layout: Layout, recipe: Recipe, shards: Sequence[str]) -> tuple[str, Tokenizer]:
    """(where it lies, the tokenizer): the one that the recipe names, or one that is trained on what is left."""
    from jaxllm.tokenizers import load, train

    if recipe.tokenizer.path:
        return recipe.tokenizer.path, load(recipe.tokenizer.path)
    directory = layout.root / "tokenizer"
    if not directory.exists():
        tokenizer = train(recipe.tokenizer, _training_texts(layout, recipe, shards))
        tokenizer.save(directory)  # whole or not at all
    return str(directory), load(directory)


def _training_texts(layout: Layout, recipe: Recipe, shards: Sequence[str]) -> Iterator[str]:
    """The first documents of every shard, the same number of bytes of each."""
    share = recipe.tokenizer_bytes // len(shards) + 1
    for shard in shards:
        size = 0
        for document in stored_documents(layout.documents(shard)):
            if size >= share:
                break
            yield document.text
            size += len(document.text.encode())


def add_tokens(levels: Sequence[Level], records: Sequence[dict[str, Any]], every: int) -> None:
    """Says for each level how many tokens it had: of the last one those that were stored, of the others an estimate.

    records: of all Tokenize tasks. every: one document in so many was drawn, so with 1 nothing is estimated. Else a
    level has the tokens that its sample has for each byte, corrected by as much as the last level's sample was wrong:
    what is special about the documents that were drawn is so at every level.
    """
    stored = sum(record["tokens"] for record in records)
    rates: dict[str, float] = {}
    for level in levels:
        sums = [record["sample"].get(level.stage, (0, 0)) for record in records]
        size, tokens = sum(s for s, _ in sums), sum(t for _, t in sums)
        level.tokens = tokens if every == 1 or not level.bytes else None
        if size:
            rates[level.stage] = tokens / size
    last = levels[-1]
    if last.bytes and not rates:  # of a few documents none may be drawn
        rates = dict.fromkeys((level.stage for level in levels), stored / last.bytes)
    correction = stored / (last.bytes * rates[last.stage]) if rates.get(last.stage) else 1.0
    for level in levels:
        if level.tokens is None and level.stage in rates:
            level.tokens, level.estimated = round(level.bytes * rates[level.stage] * correction), True
    last.tokens, last.estimated = stored, False
