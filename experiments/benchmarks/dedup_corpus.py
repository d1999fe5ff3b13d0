"""A corpus of English and code whose duplicates are known, made from what every Python brings along and from more text.

Originals are passages of real text put together anew: runs of some lines each from several places, so that there can be
more of them than the source has text, and so that they share passages as pages of the web do, but no two of them
overlap by much. A part of them is copied, with words changed, left out and put in: lightly, so that the Jaccard
similarity of word 5-grams with the original stays above 0.8 (duplicates), or heavily, so that it falls below 0.55
(which are not).
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxllm.data.documents import DocumentError, read_documents
from jaxllm.data.stdlib import stdlib_documents

SHARDS = 8
# Shares of originals that are copied: lightly (1 to 8 times), heavily (once).
DUPLICATED, LOOKALIKES = 0.15, 0.08
# One word in so many is edited. A changed word is in five 5-grams of both texts: at a rate p, similarity is about
# (1 - p)^5 / (2 - (1 - p)^5).
LIGHT, HEAVY = (0.0, 0.004, 0.008, 0.015), (0.1, 0.15)
# What counts as a duplicate of the original, and what does not; nothing lies between.
DUPLICATE, NO_DUPLICATE = 0.8, 0.55


@functools.cache
def source_lines(folder: Path | None) -> tuple[list[str], list[str]]:
    """Sentences or lines of English, and lines of code; long paragraphs would be whole documents that occur twice."""
    english, code = [], []
    for document in stdlib_documents(include_source=True):
        (code if document.name.endswith(".py") else english).extend(document.text.splitlines())
    for name in ("c4_demo.jsonl", "wiki_demo.txt", "wikitext-2.test.txt", "wikitext-2.valid.txt") if folder else ():
        try:
            for document in read_documents(str(folder / name)):
                english.extend(document.text.splitlines())
        except DocumentError as error:
            print(f"left out: {error}")
    sentences = [sentence for line in english for sentence in re.split(r"(?<=[.!?]) ", line)]
    return [[line for line in lines if 30 < len(line) < 400] for lines in (sentences, code)]


def make_corpus(out: Path, megabytes: float, folder: Path | None, seed: int = 0) -> int:
    """Writes SHARDS files of JSON lines with `text` and `cluster` (-1: no duplicate), shuffled; returns their bytes."""
    chance = random.Random(seed)
    sources = source_lines(folder)
    # Lines are drawn one by one, then shuffled: duplicates are spread over all shards.
    rows = list(_documents(sources, megabytes * 1e6, chance))
    chance.shuffle(rows)
    out.mkdir(parents=True, exist_ok=True)
    size = 0
    for shard in range(SHARDS):
        with open(out / f"{shard:05d}.jsonl", "w", encoding="utf-8") as file:
            for text, cluster in rows[shard::SHARDS]:
                file.write(json.dumps({"text": text, "cluster": cluster}, ensure_ascii=False) + "\n")
                size += len(text.encode())
    return size


def _documents(sources: Sequence[list[str]], size: float, chance: random.Random) -> Iterator[tuple[str, int]]:
    cluster = 0
    while size > 0:
        texts, known = _family(sources[chance.random() < 0.3], chance)
        for text, copied in zip(texts, known, strict=True):
            size -= len(text.encode())
            yield text, cluster if copied else -1
        cluster += 1


def _family(lines: list[str], chance: random.Random) -> tuple[list[str], list[bool]]:
    """An original and its copies; whether each is a duplicate."""
    original = _original(lines, chance)
    drawn = chance.random()
    if drawn < DUPLICATED:
        copies = min(int(chance.expovariate(0.7)) + 1, 8)
        rates = [chance.choice(LIGHT) for _ in range(copies)]
        edited = [_edited(original, rate, lines, chance) for rate in rates]
        # The few that lost too much, since a document is short or a word of code is many, are not edited at all.
        edited = [copy if similarity(original, copy) >= DUPLICATE else original for copy in edited]
        return [original, *edited], [True] * (copies + 1)
    if drawn < DUPLICATED + LOOKALIKES:
        lookalike = _edited(original, chance.choice(HEAVY), lines, chance)
        if similarity(original, lookalike) <= NO_DUPLICATE:
            return [original, lookalike], [False, False]
    return [original], [False]


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of word 5-grams, plainly."""
    mine, theirs = (
        set(zip(*(words[at:] for at in range(5)), strict=False))
        for words in (re.findall(r"\w+", text.lower()) for text in (one, other))
    )
    return len(mine & theirs) / max(len(mine | theirs), 1)


def _original(lines: list[str], chance: random.Random) -> str:
    """About as long as a page of the web: log-normal, with a median of 2,500 characters."""
    wanted = min(max(chance.lognormvariate(7.8, 0.8), 500), 60_000)
    runs, length = [], 0
    while length < wanted:
        at = chance.randrange(len(lines))
        run = lines[at : at + chance.randint(1, 4)]
        runs += run
        length += sum(map(len, run))
    return "\n".join(runs)


def _edited(text: str, rate: float, lines: list[str], chance: random.Random) -> str:
    # Words at even places, the spaces between them at odd ones: indentation is no word.
    parts = re.split(r"(\s+)", text)
    places = range(0, len(parts), 2)
    for at in chance.sample(places, round(rate * len(places))):
        other = chance.choice(chance.choice(lines).split())
        parts[at] = chance.choice((other, f"{parts[at]} {other}", ""))
    return "".join(parts)
