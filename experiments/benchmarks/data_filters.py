"""The chain of published filters beside datatrove's, on the same text, in one run.

    pip install datatrove spacy
    python experiments/benchmarks/data_filters.py --megabytes 20 [--data DATA]

English are web pages and encyclopedia articles where DATA has them (corpora/c4_demo.jsonl, corpora/wiki_demo.txt), with
the pages of Python's own documentation; code are the files of its standard library. More text than there is comes from
sampling documents, with lines left out or doubled, and a letter changed in one word of twenty, so that new text brings
new words as it does in a crawl. Prints documents/s, MB/s, how many documents are kept, and how many verdicts differ.
datatrove is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxllm.data.documents import Document
from jaxllm.data.quality import CODE, C4Quality, Chain, FineWeb, GopherQuality, GopherRepetition
from jaxllm.data.records import records
from jaxllm.data.stdlib import stdlib_documents

FILTERS = (GopherRepetition(), GopherQuality(), C4Quality(), FineWeb())


def english(data: Path | None) -> list[str]:
    texts = [document.text for document in stdlib_documents()]
    if data is not None:
        texts += [json.loads(line)["text"] for line in (data / "corpora/c4_demo.jsonl").open()]
        texts += (data / "corpora/wiki_demo.txt").read_text().splitlines()
    return [text for text in texts if text]


def code(data: Path | None) -> list[str]:
    documents = stdlib_documents(include_source=True)
    return [document.text for document in documents if document.name.startswith("source/") and document.text]


def sampled(texts: list[str], size: int) -> Iterator[str]:
    """Documents of so many characters in all: first each text, shuffled, then edited ones."""
    chosen = random.Random(0)
    texts = chosen.sample(texts, len(texts))
    for number in itertools.count():
        text = texts[number] if number < len(texts) else edited(chosen.choice(texts), chosen)
        yield text
        size -= len(text)
        if size <= 0:
            return


def edited(text: str, chosen: random.Random) -> str:
    lines = []
    for line in text.split("\n"):
        words = line.split(" ")
        for at in range(len(words)):
            if words[at] and chosen.random() < 0.05:
                place = chosen.randrange(len(words[at]))
                words[at] = words[at][:place] + chosen.choice(string.ascii_lowercase) + words[at][place + 1 :]
        lines += [" ".join(words)] * chosen.choice((0, *[1] * 8, 2))
    return "\n".join(lines)


def ours(texts: list[str], filters) -> Callable[[], set[int]]:
    batches = list(records((Document(str(i), text) for i, text in enumerate(texts)), "s"))
    chain = Chain(filters)

    def run() -> set[int]:
        kept = [chain(batch).kept.column("id").to_pylist() for batch in batches]
        return {int(name.removeprefix("s/")) for name in itertools.chain.from_iterable(kept)}

    return run


def datatrove(texts: list[str], _) -> Callable[[], set[int]]:
    from datatrove.data import Document as Page
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    def run() -> set[int]:
        flow = (Page(text=text, id=str(i)) for i, text in enumerate(texts))
        for one in (GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter()):
            flow = one.run(flow)
        return {int(page.id) for page in flow}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20, help="of text of each kind")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    print("| text | documents | MB | filters | by | documents/s | MB/s | kept |\n" + "| --- " * 8 + "|")
    for kind, filters in ((english, FILTERS), (code, FILTERS), (code, CODE)):
        texts = list(sampled(kind(arguments.data), int(arguments.megabytes * 1e6)))
        size = sum(len(text.encode()) for text in texts) / 1e6
        rates, kept = {}, {}
        for by in (ours, datatrove) if filters is FILTERS else (ours,):
            try:
                run = by(texts, filters)
            except ModuleNotFoundError:
                continue
            run_on = time.process_time()
            kept[by.__name__] = run()
            seconds = time.process_time() - run_on
            rates[by.__name__] = size / seconds
            row = [kind.__name__, len(texts), f"{size:.1f}", len(filters), by.__name__, f"{len(texts) / seconds:.0f}"]
            print("|", " | ".join(map(str, [*row, f"{size / seconds:.2f}", len(kept[by.__name__])])), "|", flush=True)
        if len(rates) == 2:
            differ = len(kept["ours"] ^ kept["datatrove"])
            print(
                f"{kind.__name__}: {rates['ours'] / rates['datatrove']:.1f} times datatrove; {differ} verdicts differ"
            )


if __name__ == "__main__":
    main()
