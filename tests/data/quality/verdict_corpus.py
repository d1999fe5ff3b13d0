"""Documents to compare verdicts on: own text, and real text where it is at hand, as it is and damaged in many ways."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

SHARED = Path(os.environ.get("JAXLLM_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
LONGEST = 20_000

# Sentences of ordinary prose; paragraphs of them are made by a fixed rule, the same everywhere.
SENTENCES = """
The harbour was quiet when the last of the boats came in, and nobody had thought to light the lamps.
She wrote down the names of those who had been there, with the hours and the weather.
Don't ask them why it's done this way; they've always done it so, and it works.
A kettle takes about four minutes to boil, a little more at the top of a mountain.
Between the two wars the town grew by 1,200 houses (most of them small), and it was given a station.
"You can't be serious," he said, "that bridge hasn't carried a train since 1974."
In the third chapter the author turns to the price of salt, which he thinks explains a great deal.
What would have happened if they had waited until the spring?
The recipe wants flour, butter, eggs... and patience; that is the part which most people leave out.
Mr. Brown and Dr. Ives met at 10 a.m. at the U.S. embassy to sign the papers.
Rain fell for nine days, and on the tenth the river came over the wall.
Our prices are in €: 20 for a child, 35 for everyone else, and nothing at all for dogs.
To be sure that the roof holds, have somebody walk on it!
The machine counts how often each letter occurs, and of those it keeps the ten that are most frequent.
Nothing of the old garden is left but the pear tree with its crooked trunk.
""".strip().splitlines()


def own_texts() -> Iterator[str]:
    for seed in range(40):
        chosen = random.Random(seed)
        paragraphs = [
            " ".join(chosen.choices(SENTENCES, k=chosen.randrange(1, 7))) for _ in range(chosen.randrange(1, 9))
        ]
        yield chosen.choice(["\n", "\n\n"]).join(paragraphs)


def shared_texts() -> Iterator[str]:
    """Web pages and encyclopedia articles."""
    pages, articles = SHARED / "corpora" / "c4_demo.jsonl", SHARED / "corpora" / "wiki_demo.txt"
    if pages.exists() and articles.exists():
        for line in pages.read_text(encoding="utf-8").splitlines()[:200]:
            yield json.loads(line)["text"]
        yield from articles.read_text(encoding="utf-8").splitlines()[:10]


def code_texts() -> Iterator[str]:
    """Python files of this interpreter, which are not the same in another version of it."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:40]:
        yield path.read_text(encoding="utf-8")


def _words_in_rows(text: str, chosen: random.Random) -> str:
    return "\n".join(
        " ".join(line.split()[i : i + 4]) for line in text.split("\n") for i in range(0, len(line.split()), 4)
    )


def _repeated_phrase(text: str, chosen: random.Random) -> str:
    words = text.split()
    begin = chosen.randrange(max(len(words) - 40, 1))
    phrase = words[begin : begin + chosen.randrange(3, 30)]
    return " ".join(words[:200] + phrase * chosen.randrange(2, 12) + words[200:500])


def _unwanted(text: str, chosen: random.Random) -> str:
    tails = ["", "\nLorem ipsum dolor sit amet.", "\nWe set { here now.", "\nSee the privacy policy now."]
    return text.replace(". ", ".\n").replace("the", chosen.choice(["the", "javascript"]), 2) + chosen.choice(tails)


EDITS: list[Callable[[str, random.Random], str]] = [
    lambda text, chosen: "\n".join(line for line in text.split("\n") for _ in range(chosen.choice([1, 1, 2, 3]))),
    lambda text, chosen: "\n\n".join(line for line in text.split("\n") for _ in range(chosen.choice([1, 1, 1, 2]))),
    lambda text, chosen: "\n".join("- " + line for line in text.split("\n")),
    lambda text, chosen: "\n".join(
        line[: chosen.randrange(5, 60)] + "..." if chosen.random() < 0.4 else line for line in text.split("\n")
    ),
    lambda text, chosen: re.sub(r"\b(the|of|and|to|that|be|with|have)\b", "", text),
    lambda text, chosen: re.sub(" ", lambda _: chosen.choice([" ", " ", " # ", " "]), text),
    lambda text, chosen: text[: chosen.randrange(100, 800)],
    lambda text, chosen: re.sub("[a-z]{5}", lambda _: str(chosen.randrange(10**5)), text),
    lambda text, chosen: text.replace(". ", ".\n"),
    lambda text, chosen: re.sub("[.?!]", "", text),
    _words_in_rows,
    _repeated_phrase,
    _unwanted,
]


def documents(texts: Iterator[str], edits_each: int) -> Iterator[str]:
    """Each text as it is, then damaged; cut to a length that keeps the tests quick."""
    chosen = random.Random(0)
    for number, text in enumerate(texts):
        text = text[:LONGEST]
        yield text
        for i in range(edits_each):
            yield EDITS[(number * edits_each + i) % len(EDITS)](text, chosen)


def key_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
